"""Training of a prepared stack as a job, on one device here or on several in processes of their own.

The job's file is ``<out>/job-train.json``; see :mod:`hetacumn.launching`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hetacumn.launching import ONE_DEVICE, DeviceRequest, launch, run_process
from hetacumn.observations import observe
from hetacumn.prepared_stack import PreparedStack, reopen
from hetacumn.team import ALONE, Team
from hetacumn.train_config import TrainConfig
from hetacumn.training import TrainingStack, run_method, training_share


@dataclass(frozen=True)
class TrainingJob:
    """Train ``method`` with ``config`` on a random ``share`` of a stack, into the folder ``out``; ``start`` is the folder of a
    finished ``em`` run to start from, or None."""

    method: str
    config: TrainConfig
    out: Path | str
    share: float = 1.0
    start: Path | str | None = None

    def to_json(self) -> dict:
        """The fields by name, as JSON has them."""
        return {**asdict(self), "out": str(self.out), "start": self.start and str(self.start)}

    @classmethod
    def from_json(cls, content: dict) -> TrainingJob:
        """Rebuild a job from what :meth:`to_json` returned."""
        return cls(**{**content, "config": TrainConfig.from_params(content["config"])})


def train(stack: PreparedStack, job: TrainingJob, devices: DeviceRequest = ONE_DEVICE) -> None:
    """Train a method on a stack; see :func:`~hetacumn.training.run_method`."""
    if devices.count == 1:
        work(stack, job, devices.check(), ALONE)
    else:
        content = {"stack": str(stack.folder), **job.to_json()}
        launch("hetacumn.training_job", Path(job.out) / "job-train.json", content, devices)


def work(stack: PreparedStack, job: TrainingJob, device: torch.device, team: Team) -> None:
    """Do one process's part of a job."""
    data = observe(stack.read(training_share(len(stack), job.share)), device)
    run_method(job.method, TrainingStack(data, stack.pixel_A, stack.settings), job.config, job.out, job.start, team)


def main(path: str) -> int:
    """Do this process's part of the job in a file, as torchrun starts it; return the exit status."""
    def part(content: dict, device: torch.device, team: Team) -> None:
        work(reopen(content.pop("stack")), TrainingJob.from_json(content), device, team)

    return run_process(path, part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
