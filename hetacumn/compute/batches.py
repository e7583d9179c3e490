"""Batches of images: batch sizes, slices, threads that process several batches at once, and prefetching.

Batches run in parallel threads because one operation gains little from a second CPU core, whereas a second batch on that core
doubles the throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

ELSEWHERE = 10  # factor by which a batch on a GPU is larger than a batch on a CPU
AT_ONCE = 2**24  # the most coefficients of such a larger batch: some GB with all intermediate results


def batch_size(count: int, coefficients: int, device: torch.device) -> int:
    """Return how many images to process at once, where each image has ``coefficients`` Fourier coefficients.

    The result is ``count`` on a CPU, so that a batch fits the caches. It is up to :data:`ELSEWHERE` times larger on other
    devices, which small batches would leave idle.
    """
    return count if device.type == "cpu" else max(count, min(ELSEWHERE * count, AT_ONCE // coefficients))


def batch_slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` items in order, ``size`` at a time; the last one may be shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def map_threads(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """Yield the result of ``work`` for each item, in order.

    A CPU processes one item in each of torch's threads at once; another device processes one item at a time. The results do not
    depend on the number of threads. ``work`` must set its own gradient mode, because the threads do not inherit the gradient
    mode of the caller.
    """
    threads = min(torch.get_num_threads(), len(items)) if device.type == "cpu" else 1
    if threads <= 1:
        yield from map(work, items)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(before)


def prefetch(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the result of ``read`` for each item, in order; a thread reads the next item while the caller uses one.

    At most two results are in memory. An error of ``read`` is raised when its result is due.
    """
    with ThreadPoolExecutor(1) as pool:
        following = None
        for item in items:
            current, following = following, pool.submit(read, item)
            if current is not None:
                yield current.result()
                del current
        if following is not None:
            yield following.result()
