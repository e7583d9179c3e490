"""Batches side by side: in order, the same as one after another, threads as before, errors told."""

import pytest
import torch

from hetacumn.parallel import side_by_side


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_each_from_one_thread(two_threads):
    def work(i):
        return i, torch.get_num_threads()

    found = list(side_by_side(work, list(range(7)), torch.device("cpu")))
    assert found == [(i, 1) for i in range(7)] and torch.get_num_threads() == 2


def test_a_single_item_has_all_threads(two_threads):
    assert list(side_by_side(lambda _: torch.get_num_threads(), [0], torch.device("cpu"))) == [2]


def test_an_error_comes_through_and_threads_are_as_before(two_threads):
    def work(i):
        return 1 / (i - 2)

    with pytest.raises(ZeroDivisionError):
        list(side_by_side(work, list(range(5)), torch.device("cpu")))
    assert torch.get_num_threads() == 2
