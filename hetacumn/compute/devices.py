"""Choice and names of devices."""

from __future__ import annotations

import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.compute.processes import SINGLE_PROCESS, ProcessGroup


def pick_device(name: str | None = None) -> torch.device:
    """Pick the device of this name; without a name, CUDA where there is one, else the CPU."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    known = ["cpu", *(["cuda", *gpus] if gpus else [])]  # by name: a tensor to try with would take memory of a GPU
    if name and name not in known:
        raise HetacumnError(f"device is {name!r}; expected {' or '.join(known)} on this machine")
    return torch.device(name or ("cuda" if gpus else "cpu"))


def device_name(device: torch.device, group: ProcessGroup = SINGLE_PROCESS) -> str:
    """Name a device, or the number of devices of a group, for tables."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return name if group.size == 1 else f"{group.size} x {name}"
