"""Prediction of a prepared stack as a job, on one device here or on several in processes of their own.

The job's file is ``<out>/job-predict.json``; see :mod:`hetacumn.launching`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hetacumn.answer import Answer
from hetacumn.launching import ONE_DEVICE, DeviceRequest, launch, run_process
from hetacumn.predict import predict_stack
from hetacumn.prepared_stack import PreparedStack, reopen
from hetacumn.stack_inference import PredictionRequest
from hetacumn.team import ALONE, Team


@dataclass(frozen=True)
class PredictionJob:
    """Predict a stack as ``request`` says under the ``model`` of a folder, into the folder ``out``."""

    model: Path | str
    request: PredictionRequest
    out: Path | str

    def to_json(self) -> dict:
        """The fields by name, as JSON has them."""
        like = self.request.like and str(self.request.like)
        return {"model": str(self.model), "out": str(self.out), "request": {**asdict(self.request), "like": like}}

    @classmethod
    def from_json(cls, content: dict) -> PredictionJob:
        """Rebuild a job from what :meth:`to_json` returned."""
        return cls(**{**content, "request": PredictionRequest(**content["request"])})


def predict(stack: PreparedStack, job: PredictionJob, devices: DeviceRequest = ONE_DEVICE) -> Answer:
    """Predict a stack; see :func:`~hetacumn.predict.predict_stack`."""
    if devices.count == 1:
        return work(stack, job, devices.check(), ALONE)
    content = {"stack": str(stack.folder), **job.to_json()}
    launch("hetacumn.prediction_job", Path(job.out) / "job-predict.json", content, devices)
    return Answer.open(job.out, stack.folder)


def work(stack: PreparedStack, job: PredictionJob, device: torch.device, team: Team) -> Answer:
    """Do one process's part of a job; return the answer."""
    return predict_stack(stack, job.model, job.request, job.out, device, team)


def main(path: str) -> int:
    """Do this process's part of the job in a file, as torchrun starts it; return the exit status."""
    def part(content: dict, device: torch.device, team: Team) -> None:
        work(reopen(content.pop("stack")), PredictionJob.from_json(content), device, team)

    return run_process(path, part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
