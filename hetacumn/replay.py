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
    """Calls work on a CUDA device as it is at first, records it then, and replays it from there on.

    What the work reads must stay where it is, numbers of the CPU are those of the recording, and it must ask the device for
    nothing. What it returned is overwritten by the next call. ``generator`` is the one whose random numbers it draws, which go
    on from call to call.
    """

    def __init__(self, generator: torch.Generator):
        self.graph, self.calls = torch.cuda.CUDAGraph(), 0
        self.graph.register_generator_state(generator)
        self.stream = torch.cuda.Stream(generator.device)  # recording happens on another than the usual one; so does warming up
        self.record: Record = {}
        # The first step after this is on the usual stream again, and PyTorch would warn of the parameters' gradients there.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(self, work: Callable[[], Record]) -> Record:
        """What ``work``, the same in every call, gives by name."""
        self.calls += 1
        if self.calls <= WARM_UP:
            usual = torch.cuda.current_stream(self.stream.device)
            self.stream.wait_stream(usual)
            with torch.cuda.stream(self.stream):
                record = work()
            usual.wait_stream(self.stream)
            return record
        if not self.record:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.record = work()
        self.graph.replay()
        return self.record
