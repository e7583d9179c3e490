"""Recording of many small kernels as a CUDA graph, and its replay.

A step of training is hundreds of kernels, and a CPU takes longer to launch each than the device to run it: without a graph a
step of the pose task takes an H100 ten times as long as its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

WARM_UP = 3  # calls without a graph, in which libraries and optimisers allocate their buffers

Result = TypeVar("Result")  # tensors in any container


class RecordedStep(Generic[Result]):
    """Runs work on a CUDA device: the first calls run it eagerly, the next call records it, and later calls replay it.

    The tensors that the work reads must stay where they are; numbers on the CPU keep the values of the recording; the work must
    not wait for the device. The next call overwrites the tensors that the work returned. The work draws its random numbers
    from ``generator``, whose sequence continues from call to call.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.graph, self.calls = torch.cuda.CUDAGraph(), 0
        self.graph.register_generator_state(generator)
        self.stream = torch.cuda.Stream(generator.device)  # both warm-up and recording need a stream of their own
        self.result: Result | None = None
        # Later steps use the default stream again, where PyTorch would warn of the parameters' gradients.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Return the result of ``work``, which must be the same work in every call."""
        self.calls += 1
        if self.calls <= WARM_UP:
            current = torch.cuda.current_stream(self.stream.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                result = work()
            current.wait_stream(self.stream)
            return result
        if self.result is None:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.result = work()
        self.graph.replay()
        return self.result
