"""Competing poses find more of the right poses of faint images than the likeliest pose of a grid."""

import pytest
import torch
from toys import hinged, make_toy

from hetacumn.physics.rotations import distance_deg
from hetacumn.search.competing_poses import Candidates, search_competing
from hetacumn.search.grid import pose_grid, search_grid, shift_grid
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import State
from hetacumn.search.subspace import volumes_at

BOX, RADIUS = 24, 0.45
GRID = pose_grid(3, 18), shift_grid(1.0, 3)  # 20 degrees


@pytest.fixture
def toy(blobs, device):
    """Two hundred faint images of two states."""
    return make_toy([hinged(blobs, 0), hinged(blobs, 110)], 200, BOX, snr=0.2, device=device)


def located(toy, rows=slice(None), batch=None):
    device = toy.volumes.device
    centres = torch.tensor([[-1.0], [1.0]], device=device)
    tangent, volumes = Tangent(toy.basis()), volumes_at(centres, toy.basis())
    candidates = Candidates(volumes, centres, *(one.to(device) for one in GRID))
    return search_competing(toy.data[rows], tangent, candidates, RADIUS, batch=batch)


def test_competing_poses_find_what_the_likeliest_of_the_grid_misses(toy, device):
    tangent = Tangent(toy.basis())
    coarse = toy.data.within(0.7 * RADIUS * BOX)
    first = search_grid(coarse, toy.volumes, *(one.to(device) for one in GRID))
    alone = State(first.poses, 2.0 * first.volume[:, None] - 1)
    alone, value = climb(toy.data, tangent, alone, (0.3, 0.35, 0.4, RADIUS, RADIUS))
    state, best = located(toy)
    wrong = [(distance_deg(one.poses.rotations, toy.poses.rotations) > 15).float().mean() for one in (alone, state)]
    assert wrong[1] < 0.7 * wrong[0] and wrong[0] > 0.05
    assert best.mean() > value.mean() + 0.3


def test_competing_poses_tell_the_states_apart(toy):
    state, _ = located(toy)
    right = (state.latents[:, 0] > 0) == (toy.classes == 1)
    assert right.float().mean() > 0.9


def test_the_log_joint_is_that_of_the_state(toy):
    state, value = located(toy)
    tangent = Tangent(toy.basis())
    expected = tangent.expand(tangent.band(toy.data, RADIUS), state).value
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-2)


def test_an_image_lies_where_it_lies_whatever_is_beside_it(toy):
    whole, _ = located(toy)
    some, _ = located(toy, slice(50, 90), batch=17)
    near = distance_deg(some.poses.rotations, whole.poses.rotations[50:90]) < 0.5
    assert near.float().mean() > 0.95
