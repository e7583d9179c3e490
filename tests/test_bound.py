"""The Bayes bound at its two extremes: clearly different states, and identical states."""

import math

import pytest
import torch
from toys import hinged, make_toy

from hetacumn.evaluation.bound import TrueMixture, _add_peaks, bayes_bound
from hetacumn.physics.rotations import turn

BOX = 24
EQUAL = torch.tensor([0.5, 0.5])


def bound_of(toy, volumes=None, weights=EQUAL, **more):
    mixture = TrueMixture(toy.volumes if volumes is None else volumes, weights, toy.poses, toy.classes)
    return bayes_bound(toy.data, mixture, **more)


@pytest.fixture
def toy(blobs, device):
    return make_toy([hinged(blobs, 0), hinged(blobs, 80)], 60, BOX, snr=2.0, device=device)


def test_clearly_different_states_have_a_bound_near_1_and_a_small_pose_error(toy):
    bound = bound_of(toy)
    assert bound.known_pose == 1 and bound.marginal >= 0.98
    assert bound.rotation_error_deg < 4
    assert bound_of(toy) == bound  # the same seed, the same bound


def test_two_identical_volumes_have_a_bound_at_chance(toy):
    bound = bound_of(toy, toy.volumes[:1].expand(2, -1, -1, -1))
    assert abs(bound.known_pose - 0.5) < 0.1 and abs(bound.marginal - 0.5) < 0.2


def test_a_peak_that_both_climbs_reach_counts_once(device):
    here = torch.eye(3, device=device).expand(2, 3, 3)
    there = turn(here, torch.tensor([[0.1, 0.0, 0.0], [30.0, 0.0, 0.0]], device=device))
    first, second = torch.tensor([2.0, 2.0], device=device), torch.tensor([2.1, 2.0], device=device)
    found = _add_peaks((here, first), (there, second))
    torch.testing.assert_close(found.cpu(), torch.tensor([2.1, 2 + math.log(2)]))


def test_a_strong_prior_decides_between_identical_volumes(toy):
    bound = bound_of(toy, toy.volumes[:1].expand(2, -1, -1, -1), torch.tensor([1e-6, 1 - 1e-6]))
    assert bound.known_pose == 0.5 == bound.marginal  # all images get the second class


def test_more_noise_makes_both_bounds_worse(blobs, device):
    bounds = [bound_of(make_toy([hinged(blobs, 0), hinged(blobs, 40)], 60, BOX, snr, device)) for snr in (0.5, 0.005)]
    assert bounds[0].known_pose > bounds[1].known_pose + 0.1
    assert bounds[0].marginal > bounds[1].marginal + 0.1
    assert bounds[0].rotation_error_deg < bounds[1].rotation_error_deg
    assert bounds[0].known_pose >= bounds[0].marginal - 0.02
