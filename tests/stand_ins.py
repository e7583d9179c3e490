"""Stand-ins for training and prediction in tests of benchmark scripts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import simulated_runs

from hetacumn.compute.launching import DeviceRequest
from hetacumn.network.training import TrainingJob
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.prediction.predict import PredictionJob


def record_runs(
    monkeypatch: pytest.MonkeyPatch,
    scripts: Sequence[ModuleType],
    answer: Callable[[PreparedStack, Path], None],
    trained: Callable[[PreparedStack, TrainingJob], str],
    predicted: Callable[[PredictionJob], str],
) -> list[str]:
    """Replace training and prediction of benchmark ``scripts``; return a list that gets a line for each of them that ran.

    ``answer`` writes the predictions of a stack to a folder. ``trained`` and ``predicted`` return the lines.
    """
    ran: list[str] = []

    def train_stack(stack: PreparedStack, job: TrainingJob, devices: DeviceRequest) -> None:
        ran.append(trained(stack, job))

    def run_prediction(stack: PreparedStack, job: PredictionJob, devices: DeviceRequest) -> None:
        ran.append(predicted(job))
        answer(stack, Path(job.out))

    monkeypatch.setattr(simulated_runs, "train_stack", train_stack)
    monkeypatch.setattr(simulated_runs, "run_prediction", run_prediction)
    for script in scripts:
        monkeypatch.setattr(script, "use_one_thread", lambda: None)
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    return ran
