"""Point groups in RELION's axes, symmetric volumes, and the cyclic symmetry of points."""

import pytest
import roma
import torch

from hetacumn.ab_initio.config import EMSchedule
from hetacumn.common.errors import HetacumnError
from hetacumn.physics.rotations import distance_deg, inplane, random_rotations
from hetacumn.physics.symmetry import align_axes, asymmetric_unit, cyclic_rotations, symmetrised, symmetry_rotations
from hetacumn.reconstruction.reconstruct import ReconstructionSettings

#: Order of each group, and the order and direction of axes that generate it in RELION.
RELION_AXES = {
    "C1": (1, []),
    "C7": (7, [(7, (0, 0, 1))]),
    "D3": (6, [(3, (0, 0, 1)), (2, (1, 0, 0))]),
    "T": (12, [(3, (0, 0, 1)), (2, (0, 0.816496, 0.577350))]),
    "O": (24, [(3, (1, 1, 1)), (4, (0, 0, 1))]),
    "I": (60, [(2, (0, 0, 1)), (5, (0.525731, 0, 0.850651)), (3, (0, 0.356822, 0.934172))]),
    "I1": (60, [(2, (1, 0, 0)), (5, (0.850651, 0, -0.525731)), (3, (0.934172, 0.356822, 0))]),
    "I2": (60, [(2, (0, 0, 1)), (5, (0.525731, 0, 0.850651)), (3, (0, 0.356822, 0.934172))]),
    "I3": (60, [(2, (-0.525731, 0, 0.850651)), (5, (0, 0, 1)), (3, (-0.491123, 0.356822, 0.794654))]),
    "I4": (60, [(2, (0.525731, 0, 0.850651)), (5, (0.894427, 0, 0.447214)), (3, (0.491123, 0.356822, 0.794654))]),
}


def generated(axes):
    """Multiply the rotations about the axes until no new rotation appears."""
    group = [torch.eye(3)]
    turns = [
        roma.rotvec_to_rotmat(2 * torch.pi / n * torch.nn.functional.normalize(torch.tensor(a).float(), dim=0)) for n, a in axes
    ]
    for known in group:  # grows in the loop
        for turn in turns:
            if distance_deg(turn @ known, torch.stack(group)).min() > 1:
                group.append(turn @ known)
    return torch.stack(group)


@pytest.mark.parametrize("name", RELION_AXES)
def test_a_group_is_the_group_that_the_axes_of_relion_generate(name):
    order, axes = RELION_AXES[name]
    found, expected = symmetry_rotations(name), generated(axes)
    assert len(found) == len(expected) == order
    assert torch.allclose(found[0], torch.eye(3), atol=1e-6)
    assert distance_deg(found[:, None], expected).amin(1).max() < 0.02
    assert distance_deg(expected[:, None], found).amin(1).max() < 0.02


@pytest.mark.parametrize("name", ["C0", "c0", "C", "C100", "I5", "S4", "D", "T1", ""])
def test_an_unknown_group_is_refused_in_one_line(name):
    with pytest.raises(HetacumnError, match=f"symmetry is '{name}'; expected Cn, Dn, T, O, I or I1 to I4"):
        symmetry_rotations(name)


def test_small_letters_name_the_same_group():
    assert torch.equal(symmetry_rotations("d3"), symmetry_rotations("D3"))
    assert EMSchedule(1, (0.1, 0.2), ((1, 6),), 1.0, 0.1, symmetry="i1").symmetry == "I1"
    assert ReconstructionSettings(symmetry="c7") == ReconstructionSettings(symmetry="C7")


@pytest.mark.parametrize("name", ["C5", "D2", "T"])
def test_a_symmetrised_volume_is_the_volume_of_all_copies(blobs, name):
    group, box = symmetry_rotations(name), 32
    copies = torch.stack([blobs.moved(g).volume(box) for g in group]).mean(0)
    found = symmetrised(blobs.volume(box)[None], group)[0]
    assert (found - copies).norm() < 0.1 * copies.norm()  # interpolation blurs the copies
    again = symmetrised(found[None], group)[0]
    assert (again - found).norm() < 0.1 * found.norm()


def test_symmetrisation_equals_its_adjoint_up_to_interpolation(blobs):
    group, box = symmetry_rotations("D3"), 24
    one, other = blobs.volume(box), blobs.moved(random_rotations(1, torch.Generator().manual_seed(0))[0]).volume(box)
    left, right = (symmetrised(one[None], group)[0] * other).sum(), (one * symmetrised(other[None], group)[0]).sum()
    assert left == pytest.approx(float(right), rel=0.01)


@pytest.mark.parametrize("name", ["C5", "D2", "O"])
def test_the_axes_of_a_rotated_volume_are_placed_on_those_of_the_group(blobs, name):
    group, box = symmetry_rotations(name), 32
    frame = random_rotations(1, torch.Generator().manual_seed(4))[0]
    off = torch.tensor([0.03, -0.02, 0.05])
    turned = torch.stack([blobs.moved(frame @ g, off).volume(box) for g in group]).mean(0)
    placed = align_axes(turned, group)
    kept = symmetrised(placed[None], group)[0]
    unplaced = symmetrised(turned[None], group)[0]
    assert (placed - kept).norm() < 0.25 * placed.norm() < (turned - unplaced).norm()
    again = align_axes(placed, group)
    assert (again - placed).norm() < 0.15 * placed.norm()


@pytest.mark.parametrize("name", RELION_AXES)
def test_every_pose_has_one_equivalent_pose_in_the_asymmetric_unit(name):
    group = symmetry_rotations(name)
    poses = random_rotations(200, torch.Generator().manual_seed(0))
    copies = (poses[:, None] @ group).flatten(0, 1)
    inside = asymmetric_unit(copies, group).unflatten(0, (-1, len(group)))
    assert (inside.sum(1) == 1).all()
    wider = asymmetric_unit(copies, group, margin_deg=5.0).float().mean()
    assert inside.float().mean() <= wider < 1 or name == "C1"


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_the_rotations_map_the_points_onto_themselves(order):
    generator = torch.Generator().manual_seed(order)
    unit = 10 * torch.randn(40, 3, generator=generator) + torch.tensor([30.0, 0.0, 0.0])
    about_z = inplane(360 / order * torch.arange(order))
    (frame,) = random_rotations(1, generator)
    points = (unit @ about_z.mT).flatten(0, 1) @ frame.mT + torch.tensor([5.0, -80.0, 7.0])
    found = cyclic_rotations(points)
    assert len(found) == order and torch.allclose(found[0], torch.eye(3), atol=1e-6)
    expected = frame @ about_z @ frame.mT
    nearest = distance_deg(found[:, None], expected).amin(1)
    assert nearest.max() < 0.01
    assert roma.is_rotation_matrix(found, epsilon=1e-5)
