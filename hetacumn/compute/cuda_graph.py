"""Work of many small kernels, recorded once as a CUDA graph and replayed.

A step of training is hundreds of kernels, each of which the device does sooner than a CPU launches it: eagerly a step of the
pose task takes an H100 ten times as long as its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

WARM_UP = 3  # calls as they are, in which libraries and optimisers make what they keep

Result = TypeVar("Result")  # tensors, in any container


class RecordedStep(Generic[Result]):
    """Calls work on a CUDA device as it is at first, records it then, and replays it from there on.

    The tensors that the work reads must stay where they are, numbers of the CPU are those of the recording, and the work must
    not wait for the device. The next call overwrites the tensors that the work returned. The work draws its random numbers
    from ``generator``, whose sequence continues from call to call.
    """

    def __init__(self, generator: torch.Generator):
        self.graph, self.calls = torch.cuda.CUDAGraph(), 0
        self.graph.register_generator_state(generator)
        self.stream = torch.cuda.Stream(generator.device)  # recording happens on another than the usual one; so does warming up
        self.result: Result | None = None
        # The first step after this is on the usual stream again, and PyTorch would warn of the parameters' gradients there.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(self, work: Callable[[], Result]) -> Result:
        """The result of ``work``, which must be the same work in every call."""
        self.calls += 1
        if self.calls <= WARM_UP:
            usual = torch.cuda.current_stream(self.stream.device)
            self.stream.wait_stream(usual)
            with torch.cuda.stream(self.stream):
                result = work()
            usual.wait_stream(self.stream)
            return result
        if self.result is None:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.result = work()
        self.graph.replay()
        return self.result
