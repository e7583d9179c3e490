"""A search among competing poses finds more correct poses of low-signal images than the likeliest pose of a grid."""

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
GRID = pose_grid(3, 18), shift_grid(1.0, 3)  # rotations 20° apart


@pytest.fixture
def toy(blobs, device):
    """Return 200 low-signal images of two states."""
    return make_toy([hinged(blobs, 0), hinged(blobs, 110)], 200, BOX, snr=0.2, device=device)


def search(toy, rows=slice(None), batch=None):
    device = toy.volumes.device
    centres = torch.tensor([[-1.0], [1.0]], device=device)
    tangent, volumes = Tangent(toy.basis()), volumes_at(centres, toy.basis())
    candidates = Candidates(volumes, centres, *(one.to(device) for one in GRID))
    return search_competing(toy.data[rows], tangent, candidates, RADIUS, batch=batch)


def test_competing_poses_give_fewer_wrong_poses_than_the_likeliest_pose_of_the_grid(toy, device):
    tangent = Tangent(toy.basis())
    coarse = toy.data.within(0.7 * RADIUS * BOX)
    first = search_grid(coarse, toy.volumes, *(one.to(device) for one in GRID))
    alone = State(first.poses, 2.0 * first.volume[:, None] - 1)
    alone, value = climb(toy.data, tangent, alone, (0.3, 0.35, 0.4, RADIUS, RADIUS))
    state, best = search(toy)
    wrong = [(distance_deg(one.poses.rotations, toy.poses.rotations) > 15).float().mean() for one in (alone, state)]
    assert wrong[1] < 0.7 * wrong[0] and wrong[0] > 0.05
    assert best.mean() > value.mean() + 0.3


def test_competing_poses_separate_the_states(toy):
    state, _ = search(toy)
    right = (state.latents[:, 0] > 0) == (toy.classes == 1)
    assert right.float().mean() > 0.9


def test_the_returned_value_is_the_log_joint_of_the_state(toy):
    state, value = search(toy)
    tangent = Tangent(toy.basis())
    expected = tangent.expand(tangent.band(toy.data, RADIUS), state).value
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-2)


def test_the_pose_of_an_image_does_not_depend_on_the_other_images(toy):
    whole, _ = search(toy)
    some, _ = search(toy, slice(50, 90), batch=17)
    near = distance_deg(some.poses.rotations, whole.poses.rotations[50:90]) < 0.5
    assert near.float().mean() > 0.95
