"""Several devices: two CPU processes (gloo) train and predict like one process, and one continues a checkpoint of two."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hetacumn.common.errors import HetacumnError
from hetacumn.compute.launching import DeviceRequest
from hetacumn.compute.processes import ProcessGroup
from hetacumn.network.config import TrainConfig
from hetacumn.network.model_files import CHECKPOINT
from hetacumn.network.training import TrainingJob, train_stack
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.rotations import distance_deg
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

pytestmark = pytest.mark.slow
DATA = Path(__file__).resolve().parents[1] / "data"
TINY = TrainConfig.from_params({
    "latent_dim": 2, "network": {"templates": 64, "width": 32}, "alone_steps": 40, "joint_epochs": 2.0, "batch": 30,
    "alone_batch": 20,
    "ab_initio": {
        "consensus": {"restarts": 1, "steps": 10, "grids": [[1, 6], [1, 6]]}, "classes": {"steps": 10, "grids": [[1, 6]]},
        "soft": {"steps": 0}, "grid": {"rotations": [1, 6], "extent": 0.0}, "subspace_steps": 5, "batch": 40,
        "routes": ["classes"],
    },
})  # fmt: skip

CPU, TWO = DeviceRequest("cpu"), DeviceRequest("cpu", 2)


@pytest.fixture(scope="module", autouse=True)
def float32_layers():
    """Use float32 layers, because bfloat16 rounds the products of half a batch differently from those of a whole batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETACUMN_LAYERS", "float32")
        yield


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    if not (DATA / "adk.npz").exists():
        pytest.skip("data/ is absent: run `dvc pull`")
    folder = tmp_path_factory.mktemp("stack")
    settings = {"structure": "adk", "states": ["open", "closed"], "particles": 101, "box": 64, "pixel_A": 1.6, "snr": 1.0}
    simulate_stack(Simulation.from_params(settings), folder, 0, DATA, progress=False)
    return prepare_stack(folder / "particles.star", folder / "prepared", Preprocessing(box=24), progress=False)


@pytest.fixture(scope="module")
def alone(stack, tmp_path_factory):
    """Return the folder of a run on one device."""
    out = tmp_path_factory.mktemp("alone")
    train_stack(stack, TrainingJob("hetacumn", TINY, out, 0.9), CPU)
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_parts_cover_all_items_and_their_weighted_means_give_the_mean(count, size):
    groups = [ProcessGroup(rank, size) for rank in range(size)]
    items = [i for group in groups for i in range(count)[group.part(count)]]
    assert items == list(range(count))
    values = torch.arange(1.0, 1 + count)
    means = [weight * values[part].mean() for part, weight in (group.share(count) for group in groups)]
    torch.testing.assert_close(sum(means), values.mean())


def test_two_processes_train_as_one(stack, alone, tmp_path):
    train_stack(stack, TrainingJob("hetacumn", TINY, tmp_path, 0.9, alone), TWO)
    one, two = (pd.read_csv(folder / "history.csv") for folder in (alone, tmp_path))
    assert one["step"].tolist() == two["step"].tolist() and len(one) >= 2
    columns = ["pose", "misfit", "kl", "conformation"]
    np.testing.assert_allclose(one[columns], two[columns], rtol=1e-3, atol=1e-3)
    one, two = (load_file(folder / "model.safetensors") for folder in (alone, tmp_path))
    for name, value in one.items():
        assert (value - two[name]).abs().median() <= 1e-4 * value.abs().max(), name
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["device"].startswith("2 x cpu") and not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("grade", ["amortized", "refined"])
def test_two_processes_predict_as_one(stack, alone, tmp_path, grade):
    unfitted = PredictionRequest(grade, polish_steps=0)  # 150 Adam steps amplify a rounding error to degrees
    for devices in (CPU, TWO):
        run_prediction(stack, PredictionJob(alone, unfitted, tmp_path / str(devices.count)), devices)
    one, two = (Predictions.read(tmp_path / str(devices)) for devices in (1, 2))
    assert one.names == two.names and len(one) == 101
    request = PredictionRequest(grade, like=tmp_path / "1")
    like = run_prediction(stack, PredictionJob(alone, request, tmp_path / "like"), TWO).predictions
    assert (like.classes == one.classes).float().mean() > 0.9
    degrees, z = (0.01, 1e-3) if grade == "amortized" else (1.0, 0.1)  # refined: two poses may fit equally well
    assert (distance_deg(one.rotations, two.rotations) < degrees).float().mean() > 0.97
    assert ((one.latents - two.latents).abs().amax(1) < z).float().mean() > 0.97


def test_one_process_continues_a_checkpoint_of_two(stack, alone, tmp_path):
    """As on a cluster, torchrun starts the processes from a job file, and SIGTERM ends them."""
    config = replace(TINY, alone_steps=3000, checkpoint_seconds=0.2)
    job = TrainingJob("hetacumn", config, tmp_path, 0.9, alone)
    (tmp_path / "job.json").write_text(json.dumps({"stack": str(stack.folder), "device": "cpu", **job.to_json()}))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen([*launcher, "-m", "hetacumn.network.training", str(tmp_path / "job.json")])
    checkpoint, limit = tmp_path / CHECKPOINT, time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0 and checkpoint.exists() and not (tmp_path / "model.safetensors").exists()
    reached = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < reached < 3000
    train_stack(stack, job, CPU)
    assert (tmp_path / "model.safetensors").exists()
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["step"].is_monotonic_increasing and history["step"].iloc[-1] > 3000
    assert history["pose"].iloc[0] > history["pose"][history["step"] == 3000].item()


def test_a_failure_in_one_process_is_reported(stack, tmp_path):
    with pytest.raises(HetacumnError, match=r"job-predict.json: one of 2 processes failed"):
        run_prediction(stack, PredictionJob(tmp_path / "none", PredictionRequest(), tmp_path), TWO)
    with pytest.raises(HetacumnError, match="devices is 0; expected 1 or more"):
        train_stack(stack, TrainingJob("hetacumn", TINY, tmp_path), DeviceRequest("cpu", 0))
