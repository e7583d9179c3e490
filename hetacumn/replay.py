"""Work of many small kernels, recorded once as a CUDA graph and replayed.

A step of training is hundreds of kernels, each of which the device does sooner than a CPU launches it: eagerly a step of the
pose task takes an H100 ten times as long as its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls as they are, in which libraries and optimisers make what they keep

Record = dict[str, Tensor]


class Replay:
    """``work``, a function of nothing to tensors by name, on a CUDA device: called as it is at first, then recorded, then
    replayed.

    What it reads must stay where it is, numbers of the CPU are those of the recording, and it must ask the device for nothing.
    What it returned is overwritten by the next call. ``generator`` is the one whose random numbers it draws, which go on from
    call to call.
    """

    def __init__(self, work: Callable[[], Record], generator: torch.Generator):
        self.work, self.graph, self.calls = work, torch.cuda.CUDAGraph(), 0
        self.graph.register_generator_state(generator)
        self.stream = torch.cuda.Stream(generator.device)  # recording happens on another than the usual one; so does warming up
        self.record: Record = {}
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # of a parameter that was last used on it

    def __call__(self) -> Record:
        self.calls += 1
        if self.calls <= WARM_UP:
            usual = torch.cuda.current_stream(self.stream.device)
            self.stream.wait_stream(usual)
            with torch.cuda.stream(self.stream):
                record = self.work()
            usual.wait_stream(self.stream)
            return record
        if not self.record:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.record = self.work()
        self.graph.replay()
        return self.record
