"""Training and prediction of a prepared stack, on one device here or on several in processes of their own.

PyTorch's launcher (torchrun) starts these. What it was given stays in ``<out>/job-train.json`` or ``job-predict.json``,
from which a cluster starts the same on several machines:
``torchrun --nnodes 2 --nproc-per-node 4 ... -m hetacumn.jobs <out>/job-train.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from hetacumn.errors import HetacumnError
from hetacumn.observations import observe
from hetacumn.predict import Answer, predict_stack, read_answer
from hetacumn.prepared import Prepared, reopen
from hetacumn.project import write_json
from hetacumn.team import ALONE, Team, join
from hetacumn.train_config import TrainConfig
from hetacumn.training import TrainingStack, pick_device, run_method, training_share


def train(stack: Prepared, share: float, method: str, config: TrainConfig, out: Path | str, start: str | None = None,
          device: str | None = None, devices: int = 1) -> None:
    """Train a method on a random share of a stack; see :func:`~hetacumn.training.run_method`.

    ``devices``: on so many GPUs of this machine, or as so many processes on its CPU where ``device`` is cpu or there is none.
    """
    _do(stack, {"do": "train", "share": share, "method": method, "config": asdict(config), "out": str(out), "start": start},
        device, devices)  # fmt: skip


def predict(stack: Prepared, model: Path | str, grade: str, out: Path | str, classes: int | None = None,
            device: str | None = None, devices: int = 1, polish_steps: int = 150, like: Path | str | None = None) -> Answer:
    """Predict a stack; see :func:`~hetacumn.predict.predict_stack`. ``devices`` as for :func:`train`."""
    answer = _do(stack, {"do": "predict", "model": str(model), "grade": grade, "out": str(out), "classes": classes,
                         "polish_steps": polish_steps, "like": like and str(like)}, device, devices)  # fmt: skip
    return answer or read_answer(out)


def _do(stack: Prepared, job: dict, device: str | None, devices: int) -> Answer | None:
    """On one device here, with its answer if there is one; on several in other processes, which leave theirs in files."""
    one = pick_device(device)
    if devices == 1:
        return work(stack, job, one, ALONE)
    if one.index is not None:
        raise HetacumnError(f"device is {device!r} and devices {devices}; expected cpu or cuda for several")
    gpus = torch.cuda.device_count() if one.type == "cuda" else 0
    if not isinstance(devices, int) or devices < 1 or 0 < gpus < devices:
        raise HetacumnError(f"devices is {devices}; expected 1 to {gpus}, the GPUs of this machine" if gpus else
                            f"devices is {devices}; expected 1 or more")
    path = Path(job["out"]) / f"job-{job['do']}.json"
    write_json(path, job | {"stack": str(stack.folder), "device": "cuda" if gpus else "cpu"})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices),
               "-m", "hetacumn.jobs", str(path)]  # fmt: skip
    threads = max(1, (os.cpu_count() or 1) // devices)
    process = subprocess.Popen(command, env={"OMP_NUM_THREADS": str(threads), **os.environ})
    try:
        code = process.wait()
    except BaseException:
        process.terminate()  # torchrun asks its processes to stop, and training leaves a checkpoint
        process.wait()
        raise
    if code:
        raise HetacumnError(f"{path}: one of {devices} processes failed; what it said is above")
    return None


def work(stack: Prepared, job: dict, device: torch.device, team: Team) -> Answer | None:
    """One process's part of a job; of a prediction, the answer."""
    if job["do"] == "predict":
        return predict_stack(stack, job["model"], job["grade"], job["out"], job["classes"], device,
                             polish_steps=job["polish_steps"], team=team, like=job.get("like"))
    config = TrainConfig.from_params(job["config"])
    data = observe(stack.read(training_share(len(stack), job["share"])), device)
    run_method(job["method"], TrainingStack(data, stack.pixel_A, stack.settings), config, job["out"], job["start"], team)
    return None


def main(path: str) -> int:
    """What torchrun starts: this process's part of the job in a file; the exit status."""
    job = json.loads(Path(path).read_text())
    try:
        team, device = join(job["device"])
        work(reopen(job["stack"]), job, device, team)
    except HetacumnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
