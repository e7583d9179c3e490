"""Several devices: two processes on a CPU (gloo) train and predict as one does, and go on from each other's checkpoints."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hetacumn import jobs
from hetacumn.ab_initio_config import AbInitioConfig
from hetacumn.errors import HetacumnError
from hetacumn.predictions import Predictions
from hetacumn.prepared import prepare
from hetacumn.preprocess import Preprocessing
from hetacumn.simulate import simulate
from hetacumn.simulation_settings import Simulation
from hetacumn.so3 import distance_deg
from hetacumn.team import Team
from hetacumn.train_config import TrainConfig
from hetacumn.training import CHECKPOINT

pytestmark = pytest.mark.slow
DATA = Path(__file__).resolve().parents[1] / "data"
QUICK = AbInitioConfig(
    restarts=1, steps=10, class_steps=10, subspace_steps=5, batch=40, coarse_grid=(1, 6), class_grid=(1, 6),
    fine_grid=(1, 6), shift=0.0, routes=("classes",), soft_steps=0,
)  # fmt: skip
TINY = TrainConfig(
    latent_dim=2, templates=64, width=32, alone_steps=40, joint_epochs=2.0, batch=30, alone_batch=20, ab_initio=QUICK
)




@pytest.fixture(scope="module", autouse=True)
def single():
    """In bfloat16 the products of half a batch are rounded otherwise than those of a whole one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETACUMN_LAYERS", "float32")
        yield


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    if not (DATA / "adk.npz").exists():
        pytest.skip("data/ is absent: run `dvc pull`")
    folder = tmp_path_factory.mktemp("stack")
    settings = {"structure": "adk", "states": ["open", "closed"], "particles": 101, "box": 64, "pixel_A": 1.6, "snr": 1.0}
    simulate(Simulation.from_params(settings), folder, 0, DATA, progress=False)
    return prepare(folder / "particles.star", folder / "prepared", Preprocessing(box=24), progress=False)


@pytest.fixture(scope="module")
def alone(stack, tmp_path_factory):
    """The folder of a run on one device."""
    out = tmp_path_factory.mktemp("alone")
    jobs.train(stack, 0.9, "hetacumn", TINY, out, device="cpu")
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_shares_make_a_whole(count, size):
    teams = [Team(rank, size) for rank in range(size)]
    items = [i for team in teams for i in range(count)[team.part(count)]]
    assert items == list(range(count))
    values = torch.arange(1.0, 1 + count)
    means = [weight * values[part].mean() for part, weight in (team.share(count) for team in teams)]
    torch.testing.assert_close(sum(means), values.mean())


def test_two_processes_train_as_one(stack, alone, tmp_path):
    jobs.train(stack, 0.9, "hetacumn", TINY, tmp_path, str(alone), "cpu", devices=2)
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
    for devices in (1, 2):  # without the fit of refined volumes: Adam's 150 steps make degrees of a rounding error
        jobs.predict(stack, alone, grade, tmp_path / str(devices), device="cpu", devices=devices, polish_steps=0)
    one, two = (Predictions.read(tmp_path / str(devices)) for devices in (1, 2))
    assert one.names == two.names and len(one) == 101
    like = jobs.predict(stack, alone, grade, tmp_path / "like", device="cpu", devices=2, like=tmp_path / "1").predictions
    assert (like.classes == one.classes).float().mean() > 0.9
    degrees, z = (0.01, 1e-3) if grade == "amortized" else (1.0, 0.1)  # refined, two poses may explain an image alike
    assert (distance_deg(one.rotations, two.rotations) < degrees).float().mean() > 0.97
    assert ((one.latents - two.latents).abs().amax(1) < z).float().mean() > 0.97


def test_a_checkpoint_of_two_processes_goes_on_with_one(stack, alone, tmp_path):
    """Started as on a cluster, by torchrun from a job's file, and ended as there, by SIGTERM."""
    config = replace(TINY, alone_steps=3000, checkpoint_seconds=0.2)
    job = {"do": "train", "stack": str(stack.folder), "share": 0.9, "method": "hetacumn", "config": asdict(config),
           "out": str(tmp_path), "start": str(alone), "device": "cpu"}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hetacumn.jobs"]
    process = subprocess.Popen([*command, str(tmp_path / "job.json")])
    checkpoint, limit = tmp_path / CHECKPOINT, time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0 and checkpoint.exists() and not (tmp_path / "model.safetensors").exists()
    reached = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < reached < 3000
    jobs.train(stack, 0.9, "hetacumn", config, tmp_path, str(alone), "cpu")
    assert (tmp_path / "model.safetensors").exists()
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["step"].is_monotonic_increasing and history["step"].iloc[-1] > 3000
    assert history["pose"].iloc[0] > history["pose"][history["step"] == 3000].item()


def test_what_fails_in_a_process_is_told(stack, tmp_path):
    with pytest.raises(HetacumnError, match=r"job-predict.json: one of 2 processes failed"):
        jobs.predict(stack, tmp_path / "none", "amortized", tmp_path, device="cpu", devices=2)
    with pytest.raises(HetacumnError, match="devices is 0; expected 1 or more"):
        jobs.train(stack, 0.9, "hetacumn", TINY, tmp_path, device="cpu", devices=0)
