"""Launching of a job in several processes, one a device, by PyTorch's launcher (torchrun).

A job is a module that is started as ``python -m <module> <job.json>``. Its file stays, so that a cluster can start the same job
on several machines: ``torchrun --nnodes 2 --nproc-per-node 4 ... -m <module> <job.json>``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.common.warning_lines import print_warnings_in_lines
from hetacumn.compute.devices import pick_device
from hetacumn.compute.processes import ProcessGroup, join_processes


@dataclass(frozen=True)
class DeviceRequest:
    """A request for devices.

    ``name`` is cpu, cuda, cuda:<i>, or None for CUDA where there is one. ``count`` is the number of GPUs of this machine, or of
    processes on its CPU.
    """

    name: str | None = None
    count: int = 1

    def check(self) -> torch.device:
        """Return the device, or the kind of several. Raises :class:`HetacumnError` where this machine has no such devices."""
        device = pick_device(self.name)
        if self.count == 1:
            return device
        if device.index is not None:
            raise HetacumnError(
                f"device is {self.name!r} and devices {self.count}; expected device cpu or cuda for several devices"
            )
        gpus = torch.cuda.device_count() if device.type == "cuda" else 0
        if not isinstance(self.count, int) or self.count < 1 or 0 < gpus < self.count:
            raise HetacumnError(
                f"devices is {self.count}; expected " + (f"1 to {gpus}, the GPUs of this machine" if gpus else "1 or more")
            )
        return device


ONE_DEVICE = DeviceRequest()


def launch(module: str, path: Path, content: dict, requested: DeviceRequest) -> None:
    """Write a job's file and run the job in one process for each device; return when all processes have ended.

    Raises:
        HetacumnError: there are no such devices, or a process failed (its own message is on the error stream).
    """
    device = requested.check()
    write_json(path, {**content, "device": device.type})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(requested.count),
               "-m", module, str(path)]  # fmt: skip
    threads = max(1, (os.cpu_count() or 1) // requested.count)
    process = subprocess.Popen(command, env={"OMP_NUM_THREADS": str(threads), **os.environ})
    try:
        code = process.wait()
    except BaseException:
        process.terminate()  # torchrun asks its processes to stop, and training leaves a checkpoint
        process.wait()
        raise
    if code:
        raise HetacumnError(f"{path}: one of {requested.count} processes failed; its message is above")


def run_process(path: str, work: Callable[[dict, torch.device, ProcessGroup], object]) -> int:
    """Do this process's part of the job in a file; return the exit status."""
    print_warnings_in_lines()
    content = json.loads(Path(path).read_text())
    try:
        group, device = join_processes(content.pop("device"))
        work(content, device, group)
    except HetacumnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
