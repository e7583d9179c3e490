"""The share of time that a GPU is busy: by phase of a run, from nvidia-smi, and by training step, from PyTorch's profiler.

Without a GPU, the columns of the GPU are empty.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hetacumn.common.files import write_table
from hetacumn.compute.devices import device_name
from hetacumn.network.config import TrainConfig
from hetacumn.network.trainer import Trainer

EVERY_SECONDS = 0.5  # time between two samples of nvidia-smi, whose busy share is a mean over up to 1 s
QUERY = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
COPIES = ("Memcpy", "Memset")  # beginnings of the names of events on the GPU that are no kernels
KEY = ["dataset", "phase", "finished"]
COLUMNS = [*KEY, "seconds", "busy_share", "gpu_memory_gb", "kernels_per_step", "work_ms_per_step", "step_ms",
           "device", "torch"]  # fmt: skip


@dataclass
class Samples:
    """Samples of a GPU in the background: the time, the busy share since the last sample, and the used memory in GB."""

    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def read_line(self, line: str) -> None:
        """Add a line of nvidia-smi with per cent and MiB; lines with other content, such as ``[N/A]``, are left out."""
        try:
            percent, mib = (float(word) for word in line.split(","))
        except ValueError:
            return
        self.taken.append((time.perf_counter(), percent / 100, mib * 2**20 / 1e9))

    def between(self, began: float, ended: float) -> dict:
        """Return the mean busy share and the largest memory between two times; an empty dict without samples."""
        chosen = [sample for sample in self.taken if began <= sample[0] <= ended]
        if not chosen:
            return {}
        _, shares, memory = zip(*chosen, strict=True)
        return {"busy_share": sum(shares) / len(shares), "gpu_memory_gb": max(memory)}


@contextmanager
def sample_gpu(device: torch.device, program: str = "nvidia-smi") -> Iterator[Samples]:
    """Sample a GPU by nvidia-smi in the background; on the CPU, and without nvidia-smi, there are no samples."""
    samples, ended = Samples(), threading.Event()
    found = shutil.which(program) if device.type == "cuda" else None

    def sample() -> None:
        while found and not ended.wait(EVERY_SECONDS):
            call = subprocess.run([found, f"--id={gpu_id(device)}", *QUERY], capture_output=True, text=True)
            samples.read_line(call.stdout)

    reader = threading.Thread(target=sample, daemon=True)
    reader.start()
    try:
        yield samples
    finally:
        ended.set()
        reader.join()


def gpu_id(device: torch.device) -> str:
    """Return the name of a GPU for nvidia-smi: an entry of CUDA_VISIBLE_DEVICES where it is set, or else a number."""
    visible, index = os.environ.get("CUDA_VISIBLE_DEVICES"), device.index or 0
    return visible.split(",")[index] if visible else str(index)


@dataclass(frozen=True)
class BusyTable:
    """The table of the phases of a run, with one row per dataset and phase; an interrupted phase has a row of its own."""

    path: Path
    device: torch.device
    samples: Samples

    @contextmanager
    def phase(self, dataset: str, name: str) -> Iterator[None]:
        """Measure a phase, and write its row at the end, or at its interruption."""
        began, finished = time.perf_counter(), False
        try:
            yield
            finished = True
        finally:
            ended = time.perf_counter()
            seconds = {"seconds": round(ended - began, 1)}
            self.write(dataset, name, seconds | self.samples.between(began, ended), finished)

    def write(self, dataset: str, name: str, values: dict, finished: bool = True) -> None:
        """Write the row of a phase at the end of the table, instead of an earlier row of the phase."""
        facts = {"dataset": dataset, "phase": name, "finished": finished, "device": device_name(self.device)}
        row = pd.DataFrame([facts | {"torch": torch.__version__} | values]).reindex(columns=COLUMNS)
        if self.path.exists():
            earlier = pd.read_csv(self.path)
            row = pd.concat([earlier[(earlier[KEY] != row.loc[0, KEY]).any(axis=1)], row.dropna(axis=1)])[COLUMNS]
        write_table(self.path, row)


def step_costs(make: Callable[[], Trainer], device: torch.device) -> dict:
    """Return the costs of the steps of a training: ``step_ms``, and on a GPU kernels and work per step and ``busy_share``.

    ``make`` builds the training, which runs three times: to warm up, to measure the clock time, and with the profiler. The work
    is the time in which the GPU runs a kernel or copies data.
    """
    times = []
    for _ in range(2):
        trainer = make()
        wait_for(device)
        began = time.perf_counter()
        trainer.run(progress=False)
        wait_for(device)
        times.append(1e3 * (time.perf_counter() - began) / trainer.total)
    costs = {"step_ms": times[-1]}
    if device.type != "cuda":
        return costs
    trainer = make()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        trainer.run(progress=False)
        wait_for(device)
    return costs | gpu_work(list(profiled.key_averages()), trainer.total, costs["step_ms"])


def gpu_work(averages: list, steps: int, step_ms: float) -> dict:
    """Sum the events on the GPU of a profile of ``steps`` steps, each of which takes ``step_ms`` without the profiler."""
    events = [one for one in averages if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
    work_ms = sum(one.self_device_time_total for one in events) / 1e3 / steps  # the profiler counts microseconds
    kernels = sum(one.count for one in events if not one.key.startswith(COPIES))
    return {"kernels_per_step": kernels / steps, "work_ms_per_step": work_ms, "busy_share": work_ms / step_ms}


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def only_pose_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """Return the settings with so many steps of task 2 alone, and no joint phase."""
    alone = round(steps / config.effort.alone_factor)
    return replace(config, alone_steps=alone, joint_epochs=0.0, checkpoint_seconds=float("inf"))


def only_joint_steps(config: TrainConfig, steps: int, images: int) -> TrainConfig:
    """Return the settings with so many joint steps on a number of images, and no steps of task 2 alone."""
    epochs = steps / -(-images // config.batch)
    return replace(config, alone_steps=0, joint_epochs=epochs, checkpoint_seconds=float("inf"))
