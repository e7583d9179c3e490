"""RELION reads the predictions of this package and reconstructs the same volume from them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from hetacumn.io.mrc import read_mrc
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import fsc
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction.back_projection import back_project
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

DATA = Path(__file__).resolve().parents[1] / "data"
pytestmark = [
    pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`"),
    pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed"),
]


def test_relion_reconstructs_the_same_volume_from_our_predictions(tmp_path):
    """Particles, CTFs, angles and origins are the same, so the volumes agree only if all conventions are right."""
    settings = {"structure": "adk", "states": ["open"], "particles": 800, "box": 64, "pixel_A": 1.6, "snr": 1.0}
    truth = simulate_stack(Simulation.from_params(settings), tmp_path, 0, DATA, progress=False)
    stack = prepare_stack(tmp_path / "particles.star", tmp_path / "prepared", Preprocessing(box=32), progress=False)
    predictions = Predictions(stack.metadata.names, truth.rotations, truth.shifts_A, truth.classes, truth.shifts_A)
    predictions.write(tmp_path, stack.source)
    command = ["relion_reconstruct", "--i", "predictions.star", "--o", "relion.mrc", "--ctf", "--pad", "2"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    theirs, voxel_A = read_mrc(tmp_path / "relion.mrc")
    assert voxel_A == pytest.approx(1.6, rel=1e-3) and theirs.shape[-1] == 64

    poses = Poses(truth.rotations, truth.shifts_A / stack.pixel_A)
    data, halves = observe(stack.read()), (slice(0, 400), slice(400, 800))
    first, second = (back_project(data[rows], poses[rows]) * soft_sphere(32) for rows in halves)
    agreement = fsc(first[None], second[None])[0]
    resolved = int((agreement > 0.143).int().argmin()) or len(agreement) - 1  # the last shell, Nyquist, is half empty
    curve = fsc((crop_volumes(theirs, 32) * soft_sphere(32))[None], ((first + second) / 2)[None])[0]
    assert resolved >= 12 and (curve[1:resolved] > 0.9).all(), (curve, agreement)
