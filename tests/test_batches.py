"""Parallel batches and reading ahead: order of results, thread counts and errors."""

import threading
import time

import pytest
import torch

from hetacumn.compute.batches import batch_slices, map_threads, prefetch


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_and_each_uses_one_thread(two_threads):
    def work(i):
        return i, torch.get_num_threads()

    found = list(map_threads(work, list(range(7)), torch.device("cpu")))
    assert found == [(i, 1) for i in range(7)] and torch.get_num_threads() == 2


def test_a_single_item_uses_all_threads(two_threads):
    assert list(map_threads(lambda _: torch.get_num_threads(), [0], torch.device("cpu"))) == [2]


def test_an_error_is_raised_and_the_thread_count_is_restored(two_threads):
    def work(i):
        return 1 / (i - 2)

    with pytest.raises(ZeroDivisionError):
        list(map_threads(work, list(range(5)), torch.device("cpu")))
    assert torch.get_num_threads() == 2


def test_prefetch_reads_exactly_one_item_ahead():
    read = []
    for at, item in enumerate(prefetch(lambda i: read.append(i) or 10 * i, range(5))):
        assert item == 10 * at
        deadline = time.monotonic() + 10
        while len(read) < min(at + 2, 5) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert read == list(range(min(at + 2, 5)))


def test_prefetch_raises_a_read_error_at_its_item_and_leaves_no_thread():
    before, seen = threading.active_count(), []
    with pytest.raises(ZeroDivisionError):
        for item in prefetch(lambda i: 1 / (i - 2), range(5)):
            seen.append(item)
    assert seen == [-0.5, -1.0]
    for _ in prefetch(lambda i: i, range(5)):
        break  # a consumer that stops early leaves no thread
    assert threading.active_count() == before
    assert list(prefetch(lambda i: i, [])) == []


@pytest.mark.parametrize("count, size", [(0, 3), (1, 3), (3, 3), (7, 3), (9, 3)])
def test_slices_cover_all_items_once_and_in_order(count, size):
    slices = list(batch_slices(count, size))
    assert [i for part in slices for i in range(count)[part]] == list(range(count))
    assert all(part.stop - part.start == size for part in slices[:-1]) and all(part.stop <= count for part in slices)
