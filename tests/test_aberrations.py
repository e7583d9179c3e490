"""Aberrations: the polynomials are orthogonal, and a map loses its detail without the correction and gets it back with it."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from test_particles import blob_images, write_stack

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.io.mrc import read_mrc
from hetacumn.io.stacks import new_stack
from hetacumn.particles.metadata import ParticleMetadata, Poses, metadata_of, optics_of, write_star
from hetacumn.particles.observations import observe
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import read_particles
from hetacumn.physics.fourier import fft2c, ifft2c
from hetacumn.physics.fsc import fsc
from hetacumn.physics.optics import Optics, frequency_grid, tilt_to_odd, wavelength_A, zernike_even, zernike_odd
from hetacumn.physics.rotations import distance_deg, perturb, random_rotations
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction.back_projection import back_project
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import State
from hetacumn.simulation.projection import density, project_atoms
from hetacumn.simulation.structures import load_states

DATA = Path(__file__).resolve().parents[1] / "data"
BOX, PIXEL_A, COUNT = 64, 1.6, 600
TILT_MRAD, TREFOIL_RAD = (3.0, -2.0), 90.0  # 90 rad Å³: 1.4 rad at 4 Å
MAGNIFICATION = torch.tensor([[1.03, 0.01], [0.01, 0.98]])
SHELLS = slice(16, 23)  # 6.4 to 4.7 Å
needs_data = pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")


@pytest.mark.parametrize("zernike", [zernike_odd, zernike_even])
def test_polynomials_are_orthogonal_on_the_unit_disc_and_1_at_its_edge(zernike):
    axis = torch.linspace(-1, 1, 401)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = torch.stack([x, y], dim=-1).reshape(-1, 2)
    inside = inside[inside.norm(dim=1) <= 1]
    values = zernike(inside, 12)
    products = values @ values.T / len(inside)
    scale = products.diagonal().sqrt()
    off = products / scale[:, None] / scale - torch.eye(12)
    assert off.abs().max() < 0.02
    angles = torch.deg2rad(torch.arange(0.0, 360.0))
    edge = zernike(torch.stack([angles.cos(), angles.sin()], dim=1), 12)
    torch.testing.assert_close(edge.abs().amax(1), torch.ones(12), atol=1e-3, rtol=0)


def test_the_phase_of_a_beam_tilt_is_that_of_coma():
    k, kv, cs = torch.tensor([[0.1, 0.05], [-0.2, 0.1]]), torch.full((1,), 300.0), torch.full((1,), 2.7)
    tilt = torch.tensor([TILT_MRAD])
    phase = tilt_to_odd(tilt, kv, cs) @ zernike_odd(k, 6)
    direct = -2 * torch.pi * 2.7e7 * 0.01968749**2 * k.square().sum(1) * (k @ tilt[0]) * 1e-3
    torch.testing.assert_close(phase[0], direct, rtol=1e-4, atol=1e-4)
    assert float(wavelength_A(kv)) == pytest.approx(0.01968749, rel=1e-5)


def optics_columns(table: star.ParticleTable, tilt=True, trefoil=True, magnification=True) -> star.ParticleTable:
    """Add aberrations to the optics table in RELION's columns."""
    optics = table.optics.copy()
    if tilt:
        optics["rlnBeamTiltX"], optics["rlnBeamTiltY"] = TILT_MRAD
    if trefoil:
        optics["rlnOddZernike"] = f"[0,0,0,0,0,{TREFOIL_RAD}]"
    if magnification:
        for i in range(2):
            for j in range(2):
                optics[f"rlnMagMat{i}{j}"] = float(MAGNIFICATION[i, j])
    return star.ParticleTable(table.path, table.particles, optics)


@pytest.fixture(scope="module", params=["phase", "magnification"])
def aberrated(request, tmp_path_factory):
    """Return the STAR files with and without the aberrations of one stack, its true poses and its true volume."""
    folder = tmp_path_factory.mktemp(request.param)
    odd = request.param == "phase"
    atoms = load_states({"structure": "adk", "states": ["open"]}, DATA)[0]
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(COUNT, generator)
    views = rotations.clone()
    if not odd:
        views[:, :2] = MAGNIFICATION.mT @ rotations[:, :2]  # X(M k) is the transform of the image at Mᵀ x
    clean = torch.cat([project_atoms(atoms, some, BOX, PIXEL_A) for some in views.split(100)])
    defocus = 8000 + 8000 * torch.rand(COUNT, generator=generator)
    one = torch.ones(COUNT)
    optics = Optics(defocus, defocus, 0 * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, pixel_A=PIXEL_A)
    k = frequency_grid(BOX) / PIXEL_A
    at = k if odd else k @ MAGNIFICATION.T  # the CTF is a function of the undistorted frequency too
    transfer = optics.ctf(at * PIXEL_A).to(torch.complex64)
    if odd:
        angle, radius = torch.atan2(k[:, 1], k[:, 0]), k.norm(dim=1)
        coma = -2 * torch.pi * 2.7e7 * 0.01968749**2 * radius.square() * (k @ torch.tensor(TILT_MRAD)) * 1e-3
        transfer = transfer * torch.polar(torch.ones(len(k)), coma + TREFOIL_RAD * radius**3 * torch.cos(3 * angle))
    images = ifft2c(fft2c(clean) * transfer.view(-1, BOX, BOX))
    images = 10 * images / images.std() + torch.randn(images.shape, generator=generator)
    with new_stack(folder / "particles.mrcs", COUNT, BOX, PIXEL_A) as stack:
        stack[:] = images.numpy()
    poses = Poses(rotations, torch.zeros(COUNT, 2))
    names = [f"{i + 1:06d}@particles.mrcs" for i in range(COUNT)]
    write_star(folder / "plain.star", ParticleMetadata(names, optics, poses), BOX)
    plain = star.read_table(folder / "plain.star")
    stated = optics_columns(plain, tilt=odd, trefoil=odd, magnification=not odd)
    star.write_table(folder / "stated.star", stated.particles, stated.optics)
    return folder, poses, density(atoms, BOX, PIXEL_A)


def reconstruct(path, poses):
    return back_project(observe(read_particles(path, progress=False)), poses) * soft_sphere(BOX)


@needs_data
def test_correction_of_stated_aberrations_restores_the_map(aberrated):
    folder, poses, true = aberrated
    without, corrected = (fsc(reconstruct(folder / name, poses), true) for name in ("plain.star", "stated.star"))
    assert corrected[SHELLS].min() > 0.85 and without[SHELLS][-1] < corrected[SHELLS][-1] - 0.3


@needs_data
def test_poses_are_refined_with_the_aberrations(aberrated):
    folder, poses, _ = aberrated
    data = observe(read_particles(folder / "stated.star", progress=False))
    volume = reconstruct(folder / "stated.star", poses)
    near = Poses(perturb(poses.rotations, 2.0, torch.Generator().manual_seed(1)), poses.shifts_px)
    start = State(near, torch.zeros(COUNT, 0))
    found, _ = climb(data, Tangent(volume[None]), start, (0.3,) * 4)
    before, after = (distance_deg(one.poses.rotations, poses.rotations).median() for one in (start, found))
    assert after < 0.35 * before


@needs_data
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
def test_relion_corrects_the_same_aberrations(aberrated):
    """RELION reconstructs with the STAR file that states the aberrations: a wrong sign or order would leave the map blurred."""
    folder, poses, true = aberrated
    curves = []
    for name in ("plain", "stated"):
        command = ["relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", "--ctf", "--pad", "2"]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr[-2000:]
        curves.append(fsc(read_mrc(folder / f"{name}.mrc")[0] * soft_sphere(BOX), true))
    assert curves[1][SHELLS].min() > 0.85 and curves[0][SHELLS][-1] < curves[1][SHELLS][-1] - 0.3


def test_columns_of_relion_are_read_and_wrong_values_refused(tmp_path):
    path = Path(__file__).resolve().parents[2] / "shared/data/metadata/relion5.star"
    if not path.is_file():
        pytest.skip("no ../shared/data")
    table = star.read_table(path)
    optics = optics_of(table)
    assert optics.odd_rad.shape[1] == 6 and optics.even_rad.shape[1] == 9
    assert float(optics.even_rad[0, 0]) == pytest.approx(45.4677, rel=1e-4)
    assert float(optics.odd_rad[0, 2]) == pytest.approx(-1.79878, rel=1e-4)  # trefoil, which the tilt does not change
    assert float(optics.magnification[0, 0, 0]) == pytest.approx(1.001833)
    for column, value, message in (("rlnOddZernike", "[1,x]", "rlnOddZernike is .1,x.; expected numbers"),
                                   ("rlnOddZernike", "[0.1,,0.3]", "rlnOddZernike is .0.1,,0.3.; expected numbers"),
                                   ("rlnEvenZernike", float("nan"), "rlnEvenZernike is nan; expected numbers"),
                                   ("rlnEvenZernike", "[1e300]", "row 1: rlnEvenZernike is .* expected values up to"),
                                   ("rlnBeamTiltX", 1e6, "row 1: the beam tilt is .* expected values up to 100"),
                                   ("rlnMagMat00", 2.0, "row 1: magnification matrix")):  # fmt: skip
        wrong = star.ParticleTable(path, table.particles, table.optics.assign(**{column: value}))
        with pytest.raises(HetacumnError, match=message):
            metadata_of(wrong, np.arange(2), 1.0, centred=False)


def test_the_star_file_of_prepared_images_states_the_aberrations(tmp_path):
    write_stack(tmp_path / "stack.mrcs", blob_images(4), PIXEL_A)
    one = torch.ones(4)
    optics = Optics(1e4 * one, 1e4 * one, 0 * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, pixel_A=PIXEL_A)
    write_star(tmp_path / "a.star", ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(4)], optics), 32)
    stated = optics_columns(star.read_table(tmp_path / "a.star"))
    star.write_table(tmp_path / "a.star", stated.particles, stated.optics.assign(rlnEvenZernike="[0.5,-3e-07,2]"))
    with pytest.warns(UserWarning, match="magnification"):
        stack = prepare_stack(tmp_path / "a.star", tmp_path / "prepared", Preprocessing(box=16), progress=False)
    found, expected = optics_of(star.read_table(stack.star)), stack.metadata.optics
    for field in ("odd_rad", "even_rad", "magnification"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))
    assert len(star.read_table(stack.star).optics) == 1
