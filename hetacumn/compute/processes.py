"""Process groups: one process for each device computes a part of every batch, and the results are combined.

PyTorch's launcher (torchrun) starts the processes and ``torch.distributed`` connects them: NCCL between GPUs, gloo between
CPUs. All processes sample the same random numbers and hold the same weights. Up to rounding errors, a run therefore equals the
run of one process with the same batch, and its checkpoint can be continued on any number of devices.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from hetacumn.common.errors import HetacumnError

PATIENCE = timedelta(hours=12)  # time limit of a wait: the leader computes the ab initio start while the others wait


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a job: ``size`` is their number and ``rank`` the number of this process, from 0."""

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return this process's part of ``count`` items; the parts are consecutive, and their lengths differ by at most 1."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def share(self, count: int) -> tuple[slice, float]:
        """Return this process's part of ``count`` items, and the weight of this part in a mean over all items.

        If there are fewer items than processes, every process computes all items.
        """
        part = self.part(count)
        return (part, (part.stop - part.start) / count) if count >= self.size else (slice(0, count), 1 / self.size)

    def sum_(self, tensors: list[Float[Tensor, " ..."]]) -> None:
        """Replace each tensor in place by its sum over all processes (in float32, one all-reduce for all tensors)."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, part: object) -> list:
        """Return the objects of all processes, ordered by rank; tensors stay on the device of their sender."""
        if self.size == 1:
            return [part]
        parts: list = [None] * self.size
        distributed.all_gather_object(parts, part)
        return parts

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            distributed.barrier()


SINGLE_PROCESS = ProcessGroup()


def join_processes(device: str) -> tuple[ProcessGroup, torch.device]:
    """Join the process group that torchrun started; return the group and this process's device.

    ``device`` is cpu or cuda. Raises :class:`HetacumnError` if there is no GPU for this process.
    """
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise HetacumnError(f"process {local} of this machine has no GPU of its own; expected one GPU for each process")
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
        distributed.init_process_group("nccl", timeout=PATIENCE, device_id=own)
    else:
        own = torch.device("cpu")
        distributed.init_process_group("gloo", timeout=PATIENCE)
    return ProcessGroup(rank, size), own
