"""Recording of many small kernels as a CUDA graph, and replay of the graph.

A training step consists of hundreds of kernels, and the CPU takes longer to launch a kernel than the GPU takes to run it.
Without a graph, a training step of task 2 on an H100 takes 10 times as long as the GPU computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

WARM_UP = 3  # calls before the recording, in which libraries and optimisers allocate their buffers

Result = TypeVar("Result")  # any container of tensors


class RecordedStep(Generic[Result]):
    """Runs a function on a CUDA device: the first calls run it eagerly, the next call records it, later calls replay it.

    The function must read its input tensors from the same memory in every call, and must not synchronise with the device.
    Numbers on the CPU keep the values that they had at the recording. A later call overwrites the tensors that an
    earlier call returned. The function must sample its random numbers from ``generator``, whose sequence continues from call to
    call.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.graph, self.calls = torch.cuda.CUDAGraph(), 0
        self.graph.register_generator_state(generator)
        self.stream = torch.cuda.Stream(generator.device)  # warm-up and recording must not use the default stream
        self.result: Result | None = None
        # Later steps run on the default stream again, and PyTorch would warn that the gradients belong to another stream.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Return the result of ``work``, which must be the same function in every call."""
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
