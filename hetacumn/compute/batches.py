"""Batches of images: their size, their slices, several batches at once in threads, and prefetching of the next batch.

A single operation gains little from a second CPU core, but a second batch on that core doubles the throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

ELSEWHERE = 10  # factor by which a batch on another device than a CPU is larger
AT_ONCE = 2**24  # the most coefficients of such a larger batch: some gigabytes with all intermediate results


def batch_size(count: int, coefficients: int, device: torch.device) -> int:
    """Return how many images of so many coefficients are processed at once.

    This is ``count`` on a CPU, whose caches the images should fit, and more on other devices, which few images leave idle.
    """
    return count if device.type == "cpu" else max(count, min(ELSEWHERE * count, AT_ONCE // coefficients))


def batch_slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` items in order, ``size`` at a time; the last one may be shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def map_threads(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """Yield the result of ``work`` for each item, in order; a CPU runs as many items at once as torch has threads.

    The results do not depend on the number of threads. ``work`` must not rely on the caller's gradient mode, which other
    threads do not have.
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

    At most two results are in memory. An error of ``read`` is raised in the place of its result.
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
