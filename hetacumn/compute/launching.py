"""Launching of a job in several processes, one for each device, with PyTorch's launcher (torchrun).

A job is a module that runs as ``python -m <module> <job.json>``. The job file is kept, so that the same job can be started on
several machines of a cluster: ``torchrun --nnodes 2 --nproc-per-node 4 ... -m <module> <job.json>``.
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

    - ``name``: cpu, cuda or cuda:N; None for CUDA where available, else the CPU.
    - ``count``: number of GPUs of this machine, or number of processes on its CPU.
    """

    name: str | None = None
    count: int = 1

    def check(self) -> torch.device:
        """Return the device; for several devices, return the device without an index.

        Raises:
            HetacumnError: this machine does not have these devices, or one device is named but several are requested.
        """
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
    """Write the job file and run the job in one process for each device; return when all processes have ended.

    Args:
        module: the module to run, see :func:`run_process`.
        path: the job file to write, in JSON.
        content: the content of the job file; ``device`` is added.
        requested: the devices.

    Raises:
        HetacumnError: the devices are not available, or a process failed (it printed its own message to stderr).
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
        process.terminate()  # torchrun passes SIGTERM on to its processes, and training then saves a checkpoint
        process.wait()
        raise
    if code:
        raise HetacumnError(f"{path}: one of {requested.count} processes failed; its message is above")


def run_process(path: str, work: Callable[[dict, torch.device, ProcessGroup], object]) -> int:
    """Run this process's part of a job, and return the exit status.

    ``path`` is the job file of :func:`launch`; ``work`` receives its content (without ``device``), the device and the group.
    The status is 0 after success, 2 after a :class:`HetacumnError` (printed in one line) and 130 after an interruption.
    """
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
