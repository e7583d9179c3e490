"""benchmark/scaling.py: each stage runs once, in the order of its needs, and the time of a run is the sum of its stages."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import scaling

from hetacumn.common.files import write_json
from hetacumn.io.star import read_table
from hetacumn.network.training import TrainingJob
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.prediction.predict import PredictionJob
from hetacumn.simulation.truth import Truth

ROOT = Path(__file__).resolve().parents[1]
needs_data = pytest.mark.skipif(not (ROOT / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """Run stages in this process, with stand-ins for training and prediction; return a line for each of these that ran."""
    lines: list[str] = []

    real = subprocess.run

    def run(command: list[str], **options) -> subprocess.CompletedProcess:
        if command[0] != sys.executable:
            return real(command, **options)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            scaling.main(command[2:])
        return subprocess.CompletedProcess(command, 0, printed.getvalue())

    def train_stack(stack: PreparedStack, job: TrainingJob, devices) -> None:
        lines.append(f"train on {job.share:g} of {len(stack)}, {stack.box} px, {job.config.classes} classes")
        write_json(Path(job.out) / "run.json", {"start_seconds": 5.0, "train_seconds": 12.0})

    class Answer:
        def __init__(self, stack: PreparedStack):
            truth = Truth.read(stack.source.parent / "truth.npz")[stack.rows]
            z = truth.classes[:, None].float()
            self.predictions = Predictions(stack.metadata.names, truth.rotations, truth.shifts_A, truth.classes, z)

    def run_prediction(stack: PreparedStack, job: PredictionJob, devices) -> Answer:
        lines.append(f"predict {len(stack)}, {job.request.grade}")
        return Answer(stack)

    monkeypatch.setattr(scaling.subprocess, "run", run)
    monkeypatch.setattr(scaling, "train_stack", train_stack)
    monkeypatch.setattr(scaling, "run_prediction", run_prediction)
    return lines


@needs_data
def test_every_stage_has_a_row_and_no_stage_is_repeated(ran, tmp_path):
    options = ["--particles", "300", "--out", str(tmp_path / "runs"), "--table", str(tmp_path / "table.csv"),
               "--figure", str(tmp_path / "figure.png")]  # fmt: skip
    scaling.main(options)
    lines = [
        "train on 0.1 of 300, 64 px, 2 classes",
        "predict 30, amortized",
        "predict 90, amortized",
        "predict 300, amortized",
    ]
    assert ran == lines
    table = pd.read_csv(tmp_path / "table.csv").set_index(["stage", "particles"])
    assert sorted(table.index) == sorted([
        *(("prediction", n) for n in (30, 90, 300)), *(("preparation", n) for n in (30, 90, 300)), ("start", 30),
        ("training", 30),
    ])  # fmt: skip
    assert table.loc[("start", 30), "seconds"] == 5 and table.loc[("training", 30), "seconds"] == 7
    assert (table.loc["prediction", "accuracy"] == 1).all() and (table["peak_memory_mb"] > 100).all()
    assert (tmp_path / "figure.png").stat().st_size < 300_000
    scaling.main(options)
    assert ran == lines
    table.drop(index=("prediction", 90)).reset_index().to_csv(tmp_path / "table.csv", index=False)
    scaling.main(options)
    assert ran == [*lines, "predict 90, amortized"]


@needs_data
def test_the_first_images_are_those_of_the_stack(tmp_path):
    known = scaling.simulate(tmp_path, 40)
    stack = scaling.prepare(known, 12)
    assert list(stack.metadata.names) == list(read_table(known.star).names()[:12])
    with pytest.raises(Exception, match="settings of another run"):
        scaling.simulate(tmp_path, 41)
