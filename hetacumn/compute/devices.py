"""Selection and names of devices."""

from __future__ import annotations

import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.compute.processes import SINGLE_PROCESS, ProcessGroup


def pick_device(name: str | None = None) -> torch.device:
    """Return the device ``name`` (cpu, cuda or cuda:N); without a name, CUDA where available, else the CPU.

    Raises:
        HetacumnError: this machine has no such device.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    known = ["cpu", *(["cuda", *gpus] if gpus else [])]  # names are compared, because a test tensor would use GPU memory
    if name and name not in known:
        raise HetacumnError(f"device is {name!r}; expected {' or '.join(known)} on this machine")
    return torch.device(name or ("cuda" if gpus else "cpu"))


def device_name(device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> str:
    """Return the name of a device for tables, preceded by the number of processes where the group has several."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return name if group.size == 1 else f"{group.size} x {name}"
