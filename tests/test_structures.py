"""Laws of atomic models: mass, frames, motions, and agreement of two ways to project."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.simulation.linker import BASIN_WIDTH_DEG, BASINS_DEG, BEFORE, C, N, backbone_angles_deg, bend, linker_rows
from hetacumn.simulation.molecules import Atoms, read_structure, rotate_about
from hetacumn.simulation.projection import density, project_atoms
from hetacumn.simulation.structures import load_motion, load_states

DATA = Path(__file__).resolve().parents[1] / "data"
SPECS = {
    "adk": {"structure": "adk", "states": ["open", "closed"]},
    "ribosome": {"structure": "ribosome", "left_out": [[], ["small/head"], ["small"]]},
    "spliceosome": {"structure": "spliceosome", "arm_b_deg": [0, 50], "top_deg": [0, 40]},
    "igg": {"structure": "igg", "fab_deg": [0, 90]},
    "complexes": {"structure": "complexes", "species": ["1EXB", "4GXU"]},
}
MOTIONS = {
    "adk": {"structure": "adk"},
    "spliceosome": {"structure": "spliceosome", "arm_b_deg": [0, 50], "top_deg": [0, 40]},
    "igg": {"structure": "igg", "fab_deg": [0, 90]},
}
PIXEL_A = {"adk": 1.0, "ribosome": 3.2, "spliceosome": 3.6, "igg": 2.0, "complexes": 2.0}

needs_data = pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")


def blob(*positions_A, width_A: float = 3.0) -> Atoms:
    """Return atoms of weight 1, 2, 3, … at the given positions."""
    n = len(positions_A)
    positions, weights = torch.tensor(positions_A), torch.arange(1, n + 1, dtype=torch.float32)
    return Atoms(positions, weights, torch.full((n,), width_A), np.full(n, "all"))


def cloud(n: int = 300) -> Atoms:
    """Return random atoms of three widths, within 30 Å of the origin."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)
    positions *= 30 * torch.rand(n, 1, generator=generator) ** (1 / 3)
    widths = torch.tensor([2.0, 3.0, 4.0])[torch.randint(3, (n,), generator=generator)]
    return Atoms(positions, 1 + torch.rand(n, generator=generator), widths, np.full(n, "all"))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def exact_projection(atoms: Atoms, rotation: torch.Tensor, box: int, pixel_A: float) -> torch.Tensor:
    """Sum the projected Gaussians one atom at a time, in double precision: (box, box) as (y, x)."""
    grid = (torch.arange(box, dtype=torch.float64) - box // 2) * pixel_A
    image = torch.zeros(box, box, dtype=torch.float64)
    view = atoms.positions_A.double() @ rotation.double().T
    for (x, y, _), weight, width in zip(view, atoms.weights.double(), atoms.widths_A.double(), strict=True):
        squared = (grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2
        image += weight * torch.exp(-squared / (2 * width**2)) * pixel_A**2 / (2 * torch.pi * width**2)
    return image


def centre_px(image: torch.Tensor) -> torch.Tensor:
    """Return the centre of mass of an image (y, x) about the origin at box // 2, as (x, y) in pixels."""
    grid = torch.arange(image.shape[-1], dtype=image.dtype) - image.shape[-1] // 2
    return torch.stack([(image.sum(0) * grid).sum(), (image.sum(1) * grid).sum()]) / image.sum()


def test_projection_is_the_exact_gaussian_sum():
    rotations = roma.random_rotmat(4, generator=torch.Generator().manual_seed(1))
    for image, rotation in zip(project_atoms(cloud(), rotations, 64, 2.0), rotations, strict=True):
        exact = exact_projection(cloud(), rotation, 64, 2.0)
        assert correlation(image.double(), exact) > 0.9995
        assert (image - exact).norm() < 0.01 * exact.norm()


def test_mass_is_conserved():
    atoms, rotations = cloud(), roma.random_rotmat(5)
    mass = atoms.weights.sum()
    assert torch.allclose(project_atoms(atoms, rotations, 64, 2.0).sum((1, 2)), mass.expand(5), rtol=1e-4)
    assert torch.allclose(density(atoms, 64, 2.0).sum(), mass, rtol=1e-4)


def test_centre_of_an_image_is_the_projected_centre_of_mass():
    atoms, rotations = cloud(), roma.random_rotmat(5, generator=torch.Generator().manual_seed(2))
    expected = (rotations @ atoms.centre_of_mass())[:, :2].double() / 2.0
    for image, centre in zip(project_atoms(atoms, rotations, 64, 2.0).double(), expected, strict=True):
        assert (centre_px(image) - centre).norm() < 0.01


def test_atom_at_the_origin_is_at_half_the_box():
    image = project_atoms(blob([0.0, 0.0, 0.0]), torch.eye(3)[None], 32, 2.0)[0]
    assert divmod(image.argmax().item(), 32) == (16, 16)
    volume = density(blob([0.0, 0.0, 0.0]), 32, 2.0)
    assert np.unravel_index(volume.argmax().item(), volume.shape) == (16, 16, 16)


def test_rotation_takes_object_to_view():
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x → y about z
    image = project_atoms(blob([12.0, 0.0, 5.0]), quarter[None], 32, 2.0)[0]
    assert divmod(image.argmax().item(), 32) == (16 + 6, 16)  # row y, column x
    rotation = roma.random_rotmat(1, generator=torch.Generator().manual_seed(3))
    position = torch.tensor([10.0, -7.0, 12.0])
    image = project_atoms(blob(position.tolist()), rotation, 32, 2.0)[0]
    assert (centre_px(image) - (rotation[0] @ position)[:2] / 2.0).norm() < 0.01


def test_density_has_axes_z_y_x():
    volume = density(blob([4.0, 8.0, -12.0]), 32, 2.0)
    assert np.unravel_index(volume.argmax().item(), volume.shape) == (16 - 6, 16 + 4, 16 + 2)


def test_batched_positions_are_one_state_for_each_image():
    first, second = cloud(), cloud().moved(torch.tensor([5.0, 0.0, 0.0]))
    both = replace(first, positions_A=torch.stack([first.positions_A, second.positions_A]))
    rotations = roma.random_rotmat(2)
    images = project_atoms(both, rotations, 64, 2.0)
    assert torch.allclose(images[:1], project_atoms(first, rotations[:1], 64, 2.0), atol=1e-4)
    assert torch.allclose(images[1:], project_atoms(second, rotations[1:], 64, 2.0), atol=1e-4)


def test_rotate_about_is_right_handed_and_keeps_the_point():
    point = torch.tensor([1.0, 2.0, 3.0])
    positions = torch.stack([point, point + torch.tensor([2.0, 0.0, 1.0])])
    turned = rotate_about(positions, point, torch.tensor([0.0, 0.0, 5.0]), torch.tensor([0.0, 90.0]))
    assert torch.allclose(turned[0], positions, atol=1e-6)
    assert torch.allclose(turned[1], torch.stack([point, point + torch.tensor([0.0, 2.0, 1.0])]), atol=1e-6)


@needs_data
@pytest.mark.parametrize("name", SPECS)
def test_projection_of_the_density_is_the_projection_of_the_atoms(name):
    atoms = load_states(SPECS[name], DATA)[0]
    summed = density(atoms, 128, PIXEL_A[name]).sum(0)
    assert correlation(project_atoms(atoms, torch.eye(3)[None], 128, PIXEL_A[name])[0], summed) > 0.9995


@needs_data
def test_adk_states_share_the_core():
    opened, closed = load_states(SPECS["adk"], DATA)
    moved = (opened.positions_A - closed.positions_A).norm(dim=1)
    assert opened.centre_of_mass().norm() < 0.01
    assert 7 < moved.square().mean().sqrt() < 8.5  # the known RMSD, superposed on the core
    residues = np.load(DATA / "adk.npz")["residue_number"]
    core = torch.from_numpy((residues >= 80) & (residues <= 110))
    assert moved[core].median() < 1.5


@needs_data
def test_adk_path_goes_from_open_to_closed_in_small_steps():
    opened, closed = load_states(SPECS["adk"], DATA)
    path = load_states({"structure": "adk", "path": np.linspace(0, 1, 11).tolist()}, DATA)
    assert torch.allclose(path[0].positions_A, opened.positions_A, atol=1e-4)
    assert torch.allclose(path[-1].positions_A, closed.positions_A, atol=1e-4)
    distance = torch.tensor([(p.positions_A - closed.positions_A).norm() for p in path])
    assert (distance.diff() < 0).all()


@needs_data
def test_ribosome_states_are_the_full_model_without_the_parts_left_out():
    full, no_head, large = load_states(SPECS["ribosome"], DATA)
    assert full.centre_of_mass().norm() < 0.01
    for state, parts in ((no_head, ["small/head"]), (large, ["small/head", "small/body"])):
        gone = torch.tensor([part.startswith(tuple(parts)) for part in full.parts])
        assert torch.equal(state.positions_A, full.positions_A[~gone])
        assert full.weights[gone].sum() > 0.1 * full.weights.sum()


@needs_data
def test_one_molecule_of_a_part_can_be_left_out():
    full, smaller = load_states({"structure": "ribosome", "left_out": [[], ["small/head/uS3", "large/core/uL2"]]}, DATA)
    assert len(full.parts) - len(smaller.parts) == 213 + 246
    assert {*full.parts} - {*smaller.parts} == {"small/head/uS3", "large/core/uL2"}


@needs_data
def test_linkers_have_the_angles_of_a_basin_and_bend_rigidly_without_clashes():
    stored = read_structure(DATA, "igg")
    states, residues = load_states({"structure": "igg", "linkers": 6}, DATA), linker_rows(stored)
    fab = torch.from_numpy((stored["chain"] == "L") | ((stored["chain"] == "H") & (stored["residue_number"] <= BEFORE)))
    rest = torch.from_numpy(np.isin(stored["chain"], ["K", "M"]))
    for state in states:
        angles = backbone_angles_deg(state.positions_A, residues)
        away = (angles[:, None] - np.array(BASINS_DEG) + 180) % 360 - 180
        assert np.abs(away).max(2).min(1).max() < 4.5 * BASIN_WIDTH_DEG
        for part in (fab, rest):
            first, here = states[0].positions_A[part][::40], state.positions_A[part][::40]
            assert torch.allclose(torch.pdist(first), torch.pdist(here), atol=2e-3)
        assert torch.allclose(states[0].positions_A[rest], state.positions_A[rest], atol=1e-3)
        assert torch.cdist(state.positions_A[fab], state.positions_A[rest]).min() > 2.9
        bonds = torch.tensor([(rows[C], after[N]) for rows, after in zip(residues, residues[1:], strict=False)])
        assert ((state.positions_A[bonds[:, 0]] - state.positions_A[bonds[:, 1]]).norm(dim=1) - 1.33).abs().max() < 0.05
    spread = torch.stack([state.positions_A[fab].mean(0) for state in states])
    assert torch.pdist(spread).min() > 5  # Å: the Fab is elsewhere in each conformation
    fewer = load_states({"structure": "igg", "linkers": 2}, DATA)
    assert all(torch.equal(one.positions_A, other.positions_A) for one, other in zip(fewer, states, strict=False))


def test_bending_reaches_the_requested_angles():
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(28, 3, generator=generator)  # seven residues of N, CA, C and O
    residues = [np.arange(first, first + 4) for first in range(0, 28, 4)]
    moving = torch.arange(28) < 4
    target = np.random.default_rng(0).uniform(-180, 180, (5, 2))
    bent = bend(positions, moving, residues, target)
    away = (backbone_angles_deg(bent, residues) - target + 180) % 360 - 180
    assert np.abs(away).max() < 0.01
    assert torch.equal(bent[-5:], positions[-5:])  # the last residue, and O of the one before


@needs_data
def test_a_hinge_rotates_one_arm_rigidly_and_leaves_the_rest():
    rest, top, arm_b, both = load_states(SPECS["spliceosome"], DATA)
    for state, moving in ((top, {"top"}), (arm_b, {"arm_b"}), (both, {"top", "arm_b"})):
        for part in ("body", "arm_b", "top"):
            chosen = torch.from_numpy(rest.parts == part)
            before, after = rest.positions_A[chosen], state.positions_A[chosen]
            if part in moving:
                assert (before - after).norm(dim=1).max() > 50
                assert torch.allclose(torch.pdist(before[::20]), torch.pdist(after[::20]), atol=1e-3)
            else:
                assert torch.equal(before, after)


@needs_data
def test_one_fab_of_the_antibody_turns_about_its_axis_and_the_rest_stays():
    rest, quarter, whole = load_states({"structure": "igg", "fab_deg": [0, 90, 360]}, DATA)
    stored = np.load(DATA / "igg.npz")
    chain, number = stored["chain"], stored["residue_number"]
    fab = torch.from_numpy((chain == "L") | (chain == "H") & (number <= 213))
    assert len(rest.weights) == 10_355 and 3000 < fab.sum() < 3500
    assert torch.equal(rest.positions_A[~fab], quarter.positions_A[~fab])
    before, after = rest.positions_A[fab], quarter.positions_A[fab]
    assert torch.allclose(torch.pdist(before[::20]), torch.pdist(after[::20]), atol=1e-3)
    assert torch.allclose(rest.positions_A, whole.positions_A, atol=1e-3)
    axis = torch.from_numpy(stored["fab_axis"])
    assert torch.allclose(before @ axis, after @ axis, atol=1e-3)
    assert (after - before).norm(dim=1).max() > 20
    known = np.linalg.norm([103.798 - 79.831, 123.198 - 114.592, 171.739 - 134.717])  # Cα of H 213 and H 242
    heights = (torch.from_numpy(stored["xyz_A"]) - torch.from_numpy(stored["fab_hinge_A"])).norm(dim=1)
    assert heights.min() == 0 and (heights - known).abs().min() < 1e-3


@needs_data
def test_each_species_of_a_mixture_lies_at_the_origin_and_has_the_distances_of_its_entry():
    small, large = (load_states({"structure": "complexes", "species": count}, DATA) for count in (8, 45))
    assert [atoms.parts[0] for atoms in small] == [atoms.parts[0] for atoms in large[:8]]
    assert len({atoms.parts[0] for atoms in large}) == 45
    assert sum(len(atoms.weights) for atoms in large) == 42_503
    for atoms in large:
        assert atoms.centre_of_mass().norm() < 0.01
        steps = atoms.positions_A.diff(dim=0).norm(dim=1)
        assert steps.median().item() == pytest.approx(3.8, abs=0.1)  # of consecutive Cα
    (one,) = load_states({"structure": "complexes", "species": ["1N2C"]}, DATA)
    first, second = np.array([[48.32, 113.29, 33.01], [47.47, 118.11, 30.91]])
    assert (one.positions_A[0] - one.positions_A[2]).norm().item() == pytest.approx(np.linalg.norm(first - second), abs=0.1)


@needs_data
@pytest.mark.parametrize("name", MOTIONS)
def test_a_motion_ends_in_the_first_and_last_state(name):
    states, motion = load_states(SPECS[name], DATA), load_motion(MOTIONS[name], DATA)
    moving = motion.move(torch.tensor([0.0, 0.5, 1.0])[:, None].expand(3, len(motion.names)))
    assert moving.positions_A.shape == (3, len(moving.weights), 3)
    assert torch.allclose(moving.positions_A[0], states[0].positions_A, atol=1e-3)
    assert torch.allclose(moving.positions_A[2], states[-1].positions_A, atol=1e-3)
    assert project_atoms(moving, torch.eye(3).expand(3, 3, 3), 128, PIXEL_A[name]).shape == (3, 128, 128)


@needs_data
def test_the_arms_of_the_spliceosome_move_independently():
    motion = load_motion(MOTIONS["spliceosome"], DATA)
    assert motion.names == ("arm_b", "top")
    rest, arm_b, top = (motion.move(torch.tensor(t)) for t in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    for state, moving in ((arm_b, "arm_b"), (top, "top")):
        moved = (state.positions_A - rest.positions_A).norm(dim=1) > 1e-3
        assert set(rest.parts[moved.numpy()]) == {moving}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"structure": "hsp90"}, "adk, complexes, igg, ribosome, ring, spliceosome"),
        ({"structure": "igg"}, "fab_deg or linkers"),
        ({"structure": "igg", "fab_deg": 90}, "list of numbers"),
        ({"structure": "igg", "linkers": [3]}, "expected a number"),
        ({"structure": "igg", "linkers": 0}, "at least 1"),
        ({"structure": "complexes", "species": []}, "list of names, or their number"),
        pytest.param({"structure": "complexes", "species": 46}, "1 to 45", marks=needs_data),
        pytest.param({"structure": "complexes", "species": ["1ABC"]}, "1AHW, 1ATN", marks=needs_data),
        ({"structure": "adk"}, "states or path"),
        ({"structure": "adk", "state": ["open"]}, "states or path"),
        ({"structure": "adk", "states": ["ajar"]}, "closed, open"),
        ({"structure": "adk", "path": [0.0, 1.5]}, "0 .open. to 1 .closed."),
        ({"structure": "spliceosome", "arm_b_deg": [0]}, "arm_b_deg and top_deg"),
        ({"structure": "spliceosome", "arm_b_deg": 50, "top_deg": [0]}, "list of numbers"),
        pytest.param({"structure": "ribosome", "left_out": [["beak"]]}, "small/head", marks=needs_data),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(spec, expected):
    with pytest.raises(HetacumnError, match=expected):
        load_states(spec, DATA)


def test_other_errors_name_what_was_expected(tmp_path):
    with pytest.raises(HetacumnError, match="adk, igg, spliceosome"):
        load_motion({"structure": "ribosome"}, DATA)
    with pytest.raises(HetacumnError, match="adk.npz: no such file"):
        load_states(SPECS["adk"], tmp_path)
    with pytest.raises(HetacumnError, match="larger box"):
        project_atoms(blob([40.0, 0.0, 0.0]), torch.eye(3)[None], 32, 2.0)
    with pytest.raises(HetacumnError, match="at most 5.00 Å"):
        density(blob([0.0, 0.0, 0.0]), 32, 10.0)
    with pytest.raises(HetacumnError, match="even"):
        density(blob([0.0, 0.0, 0.0]), 31, 2.0)
