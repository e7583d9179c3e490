"""Batches side by side on the cores of a CPU (what one operation gains from a second core is little, a second batch doubles),
and the next one read while one is worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


ELSEWHERE = 10  # times as many images at once on another device than a CPU,
AT_ONCE = 2**24  # as long as they have no more coefficients than this: some gigabytes, with all that is made of them


def batch_size(count: int, coefficients: int, device: torch.device) -> int:
    """How many images of so many coefficients are worked on at once: ``count`` on a CPU, whose caches they should fit; more on
    other devices, which a few leave idle.
    """
    return count if device.type == "cpu" else max(count, min(ELSEWHERE * count, AT_ONCE // coefficients))


def batch_slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` items in order, ``size`` at a time; the last one may be shorter."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def map_threads(work: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> Iterator[Result]:
    """``work`` of each item, in order; on a CPU in as many threads as torch has, each operation in one of them.

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
    """``read`` of each item, in order; the next is read in a thread of its own while the caller works on one.

    There are two of them in memory at most. An error of ``read`` comes where its result would have.
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
