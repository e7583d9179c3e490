"""The simulator: images have the stated properties and are slices of the volumes; particle files contain no truth."""

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.io.mrc import read_mrc
from hetacumn.particles.metadata import Poses, write_star
from hetacumn.particles.reader import read_particles
from hetacumn.physics.fourier import fft2c
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.optics import frequency_grid
from hetacumn.physics.rotations import distance_deg, to_euler
from hetacumn.physics.slices import Slicer
from hetacumn.simulation import conformations, simulate
from hetacumn.simulation.imaging import Noise, form_images
from hetacumn.simulation.sampling import sample_optics
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

DATA = Path(__file__).resolve().parents[1] / "data"
pytestmark = pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")

ADK = {"structure": "adk", "states": ["open", "closed"], "particles": 200, "box": 48, "pixel_A": 2.2,
       "shift_px": 3}  # fmt: skip
SPLICEOSOME = {"structure": "spliceosome", "arm_b_deg": [0, 50], "top_deg": [0, 40], "particles": 60,
               "box": 96, "pixel_A": 4.8, "ctf_table": "ctf_empiar10180.csv"}  # fmt: skip
MOTION = {"structure": "adk", "continuous": True, "motion_classes": 4, "particles": 400, "box": 48,
          "pixel_A": 2.2}  # fmt: skip


def run(out: Path, seed: int = 0, **changes) -> Truth:
    return simulate_stack(Simulation.from_params({**ADK, **changes}), out, seed, DATA, progress=False)


def file_images(out: Path) -> torch.Tensor:
    return torch.from_numpy(mrcfile.read(out / "particles.mrcs").copy())


@pytest.fixture(scope="module")
def adk(tmp_path_factory) -> Path:
    """Return the folder of a stack of 200 particles with SNR 100."""
    out = tmp_path_factory.mktemp("adk")
    run(out, snr=100.0)
    return out


@pytest.mark.parametrize(
    "settings",
    [ADK, {**ADK, "noise": "coloured", "snr": 0.3}, SPLICEOSOME, MOTION],
    ids=["white", "coloured", "ctf table", "continuous"],
)
def test_snr_is_as_stated(settings, tmp_path, monkeypatch):
    clean = []
    form = form_images
    monkeypatch.setattr(simulate, "form_images", lambda *a: clean.append(form(*a)) or clean[-1])
    settings = Simulation.from_params(settings)
    truth = simulate_stack(settings, tmp_path, 0, DATA, progress=False)
    signal = torch.cat(clean) / truth.noise_std
    noise = file_images(tmp_path) - signal
    assert signal.var((1, 2)).mean() / noise.var() == pytest.approx(settings.snr, rel=0.03)
    assert noise.std() == pytest.approx(1, abs=0.015)
    torch.testing.assert_close(truth.clean, signal[:16])


def compare_with_slices(out: Path, turn=lambda r: r, sign: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the correlation of each image with the slice of its class volume, and the ratio of their powers."""
    truth = Truth.read(out / "truth.npz")
    optics = read_particles(out / "particles.star", progress=False).metadata.optics
    volumes = torch.stack([read_mrc(out / f"truth_class{k}.mrc")[0] for k in (1, 2)])
    plane = HalfPlane(48, radius=16)
    slices = Slicer(volumes, padding=4)(turn(truth.rotations), plane.k)[torch.arange(200), truth.classes]
    expected = plane.translate(slices * optics.ctf(plane.k / 48), sign * truth.shifts_A / optics.pixel_A)
    found = plane.pack(file_images(out)) * truth.noise_std
    inner, *powers = (
        (plane.weight * (a.conj() * b).real).sum(1) for a, b in ((expected, found), (expected, expected), (found, found))
    )
    return inner / (powers[0] * powers[1]).sqrt(), powers[0] / powers[1]


def test_images_are_slices_of_the_volumes_by_another_projector(adk):
    """Poses, shifts, CTF, scale and volumes agree with a Fourier slicer, which shares only the code of the CTF."""
    correlation, power = compare_with_slices(adk)
    assert correlation.min() > 0.99
    assert power.median().item() == pytest.approx(1, abs=0.02)


def test_inverse_poses_or_shifts_lower_the_correlation(adk):
    assert compare_with_slices(adk, turn=lambda rotations: rotations.mT)[0].median() < 0.9
    assert compare_with_slices(adk, sign=-1.0)[0].median() < 0.9


def test_poses_written_in_the_convention_of_relion_are_read_back_as_the_truth(adk, tmp_path):
    truth, particles = Truth.read(adk / "truth.npz"), read_particles(adk / "particles.star", progress=False)
    poses = Poses(truth.rotations, truth.shifts_A / particles.pixel_A)
    posed = replace(particles.metadata, poses=poses)
    write_star(tmp_path / "posed.star", posed, 48, truth.classes)
    table = star.read_table(tmp_path / "posed.star")
    np.testing.assert_allclose(table.numbers("rlnOriginXAngst"), -truth.shifts_A[:, 0], atol=1e-5)
    again = read_particles(tmp_path / "posed.star", box=24, data_dir=adk, centre=False, progress=False).metadata.poses
    assert distance_deg(again.rotations, truth.rotations).max() < 0.01
    torch.testing.assert_close(again.shifts_px, truth.shifts_A / (2 * particles.pixel_A), atol=1e-5, rtol=0)


def test_the_star_file_is_relion31_and_holds_no_truth(adk):
    table = star.read_table(adk / "particles.star")
    assert "data_optics" in (adk / "particles.star").read_text()
    assert set(table.particles) == {"rlnImageName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle",
                                    "rlnPhaseShift", "rlnOpticsGroup"}  # fmt: skip
    assert table.numbers("rlnImageSize")[0] == 48 and table.pixel_sizes()[0] == 2.2
    particles = read_particles(adk / "particles.star", box=32, progress=False)
    assert particles.metadata.poses is None and len(particles) == 200
    assert particles.metadata.names[9] == "000010@particles.mrcs"


def test_optics_are_sampled_as_stated(tmp_path):
    run(tmp_path, defocus_A=[9000, 12000], astigmatism_A=400, voltage_kv=200, amplitude_contrast=0.07)
    optics = read_particles(tmp_path / "particles.star", progress=False).metadata.optics
    mean = (optics.defocus_u_A + optics.defocus_v_A) / 2
    assert 9000 <= mean.min() < 9300 and 11700 < mean.max() <= 12000
    difference = optics.defocus_u_A - optics.defocus_v_A
    assert 0 <= difference.min() and 350 < difference.max() <= 400
    assert (optics.voltage_kv == 200).all() and torch.allclose(optics.amplitude_contrast, torch.tensor(0.07))


def test_the_same_seed_gives_the_same_files_with_any_chunk_size(tmp_path, monkeypatch):
    run(tmp_path / "a", particles=40)
    run(tmp_path / "b", particles=40)
    for name in ("particles.mrcs", "particles.star", "truth.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    monkeypatch.setattr(simulate, "CHUNK", 7)
    run(tmp_path / "c", particles=40)
    torch.testing.assert_close(file_images(tmp_path / "c"), file_images(tmp_path / "a"), atol=1e-5, rtol=0)
    run(tmp_path / "d", seed=1, particles=40)
    assert not torch.allclose(file_images(tmp_path / "d"), file_images(tmp_path / "a"))


def test_classes_have_the_given_weights_and_shifts_the_given_range(tmp_path, monkeypatch):
    monkeypatch.setattr(conformations, "project_atoms", lambda atoms, r, box, _: torch.randn(len(r), box, box))
    truth = run(tmp_path, particles=5000, box=48, weights=[0.8, 0.2], shift_px=2)
    assert (truth.classes == 0).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert truth.shifts_A.abs().max() <= 2 * 2.2
    torch.testing.assert_close(truth.shifts_A.std(0), torch.full((2,), 2 * 2.2 / 3**0.5), rtol=0.05, atol=0)


def test_coloured_noise_has_the_given_spectrum_and_unit_variance():
    settings = Simulation({}, box=64, pixel_A=2.0, noise="coloured", noise_knee_A=40.0, noise_floor=0.2)
    optics = sample_optics(replace(settings, particles=400), np.random.default_rng(1), DATA)
    noise = torch.from_numpy(Noise(settings, np.random.default_rng(0)).sample(optics))
    power = fft2c(noise).abs().square().mean(0).flatten()
    k = (frequency_grid(64) / 2.0).norm(dim=1)
    shape = 0.2 + 1 / (1 + (40 * k) ** 2)
    assert noise.var() == pytest.approx(1, abs=0.01)
    for low, high in ((0.0, 0.02), (0.02, 0.08), (0.08, 0.2)):
        band = (k >= low) & (k < high)
        ratio = (power[band].sum() / shape[band].sum()) * shape.mean()
        assert ratio.item() == pytest.approx(1, abs=0.05)


def test_black_files_are_read_back_as_white_ones(tmp_path):
    run(tmp_path / "white", snr=2.0)
    run(tmp_path / "black", snr=2.0, contrast="black")
    white, black = (read_particles(tmp_path / name / "particles.star", progress=False) for name in ("white", "black"))
    clean = Truth.read(tmp_path / "black" / "truth.npz").clean
    for particles in (white, black):
        both = torch.stack([particles.images[:16].flatten(), clean.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.5


def test_a_continuous_motion_has_a_uniform_coordinate_and_equal_classes(tmp_path):
    truth = simulate_stack(Simulation.from_params(MOTION), tmp_path, 0, DATA, progress=False)
    assert 0 <= truth.coordinate.min() < 0.02 and 0.98 < truth.coordinate.max() <= 1
    assert torch.equal(truth.classes, (truth.coordinate[:, 0] * 4).long())
    assert truth.coordinate.mean() == pytest.approx(0.5, abs=0.06)
    names = sorted(path.name for path in tmp_path.glob("truth_class*"))
    assert names == [f"truth_class{k}.mrc" for k in range(1, 5)]


def test_independent_motions_have_independent_coordinates_and_a_grid_of_classes(tmp_path):
    settings = {**SPLICEOSOME, "continuous": True, "motion_classes": 2, "particles": 200}
    truth = simulate_stack(Simulation.from_params(settings), tmp_path, 0, DATA, progress=False)
    assert truth.coordinate.shape == (200, 2) and abs(torch.corrcoef(truth.coordinate.T)[0, 1]) < 0.2
    assert torch.equal(truth.classes, 2 * (truth.coordinate[:, 0] >= 0.5) + (truth.coordinate[:, 1] >= 0.5).long())
    assert len(list(tmp_path.glob("truth_class*"))) == 4


def test_views_and_shifts_can_follow_a_table(tmp_path):
    settings = {**SPLICEOSOME, "pose_table": "poses_empiar10180.csv", "particles": 300}
    truth = simulate_stack(Simulation.from_params(settings), tmp_path, 0, DATA, progress=False)
    table = pd.read_csv(DATA / "poses_empiar10180.csv")
    _, tilt, psi = to_euler(truth.rotations).unbind(1)
    assert tilt.mean() == pytest.approx(table["tilt_deg"].mean(), abs=8) and psi.std() > 90
    assert truth.shifts_A[:, 0].mean() == pytest.approx(table["shift_x_A"].mean(), abs=8)
    assert truth.shifts_A[:, 1].std() == pytest.approx(table["shift_y_A"].std(), rel=0.15)


@pytest.mark.parametrize("changes, message", [
    ({"weights": [0.5, 0.4]}, "weights are .*sum to 1"),
    ({"weights": [0.5, 0.3, 0.2]}, "weights are .*one for each of 2 states"),
    ({"box": 47}, "box is 47; expected an even"),
    ({"snr": 0}, "snr is 0; expected more"),
    ({"noise": "pink"}, "noise is 'pink'; expected white or coloured"),
    ({"contrast": "grey"}, "contrast is 'grey'"),
    ({"ctf_table": "none.csv"}, "none.csv: no such file"),
    ({"snrr": 0.1}, "snrr"),
    ({"structure": "haemoglobin"}, "haemoglobin"),
])  # fmt: skip
def test_bad_settings_are_refused_and_nothing_is_left(changes, message, tmp_path):
    with pytest.raises(HetacumnError, match=message):
        run(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_no_stack(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "form_images", fail)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []
