"""Refinement of given poses: the estimated errors are the true errors, and accurate poses of noisy images stay accurate."""

import pytest
import torch
from toys import hinged, make_toy

from hetacumn.particles.metadata import Poses
from hetacumn.physics.rotations import distance_deg, perturb
from hetacumn.search.pose_prior import Near, PosePrior, climb_near, fit_prior
from hetacumn.search.refinement import Tangent, climb
from hetacumn.search.state import State

BOX, RADIUS, RADII = 24, 0.35, (0.25, 0.35, 0.35, 0.35)


@pytest.fixture(scope="module")
def faint(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 110)], 600, BOX, snr=0.03)


@pytest.fixture(scope="module")
def clear(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 110)], 600, BOX, snr=0.5)


def noisy(toy, degrees: float, pixels: float) -> State:
    generator = torch.Generator().manual_seed(3)
    shifts = toy.poses.shifts_px + pixels * torch.randn(len(toy.data), 2, generator=generator)
    return State(Poses(perturb(toy.poses.rotations, degrees, generator), shifts), toy.latents())


@pytest.mark.parametrize("degrees, pixels", [(1.0, 0.1), (2.0, 0.3), (4.0, 0.6)])
def test_the_estimated_errors_of_given_poses_are_the_true_errors(clear, degrees, pixels):
    prior = fit_prior(clear.data, Tangent(clear.basis()), noisy(clear, degrees, pixels), RADIUS)
    assert degrees / 1.6 < prior.rotation_deg < 1.6 * degrees
    assert pixels / 1.6 < prior.shift_px < 1.6 * pixels


def test_the_prior_improves_good_poses_that_steps_without_it_spoil(faint):
    given, tangent = noisy(faint, 2.0, 0.3), Tangent(faint.basis())
    near = Near(given.poses, fit_prior(faint.data, tangent, given, RADIUS))
    kept, free = climb_near(faint.data, tangent, given, near, RADII), climb(faint.data, tangent, given, RADII)[0]
    before, after, without = (
        distance_deg(one.poses.rotations, faint.poses.rotations).square().mean().sqrt() for one in (given, kept, free)
    )
    assert after < before < without


def test_a_wide_prior_changes_nothing_and_a_narrow_prior_keeps_the_poses(faint):
    given, tangent = noisy(faint, 1.0, 0.1), Tangent(faint.basis())
    wide = climb_near(faint.data, tangent, given, Near(given.poses, PosePrior(1e4, 1e4)), RADII)
    free, _ = climb(faint.data, tangent, given, RADII)
    assert distance_deg(wide.poses.rotations, free.poses.rotations).quantile(0.95) < 0.5
    narrow = climb_near(faint.data, tangent, given, Near(given.poses, PosePrior(1e-3, 1e-3)), RADII)
    assert distance_deg(narrow.poses.rotations, given.poses.rotations).max() < 0.05


def test_the_slope_of_the_prior_is_the_derivative_of_its_value(faint):
    given, part = noisy(faint, 2.0, 0.3), faint.data[:40]
    near, tangent = Near(given.poses[:40], PosePrior(1.5, 0.2)), Tangent(faint.basis())
    state = noisy(faint, 0.0, 0.0)[:40]
    plain = tangent.expand(part, state)
    added = near.added(plain, state)
    for i in range(5):
        step = torch.zeros(40, 6)
        step[:, i] = 1e-2
        ahead, behind = (near.added(plain, state.moved(sign * step)).value for sign in (1, -1))
        measured = (ahead - behind) / 2e-2
        torch.testing.assert_close(added.slope[:, i] - plain.slope[:, i], measured, atol=0.05, rtol=0.05)
