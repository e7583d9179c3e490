"""Several devices, one process each: every process has its share of each batch, and what they found is put together.

PyTorch's own launcher (torchrun) starts the processes and ``torch.distributed`` connects them: NCCL between GPUs, gloo
between CPUs. All of them draw the same random numbers and hold the same weights, so that a run is, but for rounding, that of
one process with the same batch, and its checkpoint goes on with any number of devices.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from hetacumn.errors import HetacumnError

PATIENCE = timedelta(hours=12)  # of those that wait for the first, which alone makes the start


@dataclass(frozen=True)
class Team:
    """The processes of a job: this one's ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's part of ``count`` items; parts differ by one item at most, and follow one another."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def share(self, count: int) -> tuple[slice, float]:
        """The part, and what its mean weighs in the mean of all. Fewer items than processes are done by every process."""
        part = self.part(count)
        return (part, (part.stop - part.start) / count) if count >= self.size else (slice(0, count), 1 / self.size)

    def add_up_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, part: object) -> list:
        """What every process has, in the order of ranks; tensors come on the device they were sent from."""
        if self.size == 1:
            return [part]
        parts: list = [None] * self.size
        distributed.all_gather_object(parts, part)
        return parts

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Team()


def join(device: str) -> tuple[Team, torch.device]:
    """Join the processes that torchrun started with this one: the team, and this process's device, cpu or one of cuda."""
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise HetacumnError(f"process {local} of this machine has no GPU of its own; expected one for each")
        own = torch.device("cuda", local)
        torch.cuda.set_device(own)
        distributed.init_process_group("nccl", timeout=PATIENCE, device_id=own)
    else:
        own = torch.device("cpu")
        distributed.init_process_group("gloo", timeout=PATIENCE)
    return Team(rank, size), own
