"""Exhaustive pose search: the likelihood equals a sum over pixels, and the search finds the true poses."""

import math

import pytest
import torch
from toys import hinged, likelihood_at, make_toy

from hetacumn.particles.metadata import Poses
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.rotations import distance_deg, perturb, random_rotations
from hetacumn.physics.slices import Slicer
from hetacumn.search.grid import (
    likeliest,
    log_likelihood,
    log_sum_exp_,
    open_rotations,
    pose_grid,
    posterior_,
    search_grid,
    shift_grid,
)

BOX = 24


@pytest.fixture
def toy(blobs, device):
    """Return 40 high-signal images of one molecule."""
    return make_toy([blobs], 40, BOX, snr=2.0, device=device)


def unit_mixing(toy):
    return torch.ones(len(toy.data), 1, device=toy.volumes.device)


def test_the_posterior_is_a_softmax_also_for_scores_far_apart(device):
    scores = torch.tensor([[0.0, -1.0, -700.0, -5000.0], [3e4, 3e4 - 2, -3e4, 0.0]], device=device)
    share, log_total = posterior_(scores.clone(), 0.5)
    assert torch.allclose(share, (0.5 * scores).softmax(1), atol=1e-7)
    assert torch.allclose(log_total, (0.5 * scores).logsumexp(1), rtol=1e-6, atol=1e-6)
    assert torch.allclose(log_sum_exp_(scores.clone()), scores.logsumexp(1), rtol=1e-6, atol=1e-6)


def test_log_likelihood_is_the_sum_over_pixels(toy, generator, device):
    data, rotations, shifts = (
        toy.data[:4],
        random_rotations(3, generator, device),
        shift_grid(1.5, 2).to(device),
    )
    slices = Slicer(toy.volumes)(rotations, data.k)[:, 0]
    scores = log_likelihood(data, slices, shifts)
    assert scores.shape == (4, 4, 3)
    for t, shift in enumerate(shifts):
        for s in range(3):
            poses = Poses(rotations[s].expand(4, 3, 3), shift.expand(4, 2))
            expected = likelihood_at(data, toy.volumes, unit_mixing(toy)[:4], poses)
            torch.testing.assert_close(scores[:, t, s], expected, rtol=1e-3, atol=0.05)


def test_the_truth_is_likelier_than_other_poses(toy, generator, device):
    other = Poses(perturb(toy.poses.rotations, 10.0, generator), toy.poses.shifts_px)
    here, there = (likelihood_at(toy.data, toy.volumes, unit_mixing(toy), poses) for poses in (toy.poses, other))
    assert (here > there).float().mean() > 0.95


def test_search_grid_finds_poses_on_the_grid_exactly(blobs, device):
    rotations, shifts = pose_grid(2, 12), shift_grid(2.0, 3)
    rows = torch.arange(0, len(rotations), 29)[:18]
    toy = make_toy(
        [blobs, hinged(blobs, 0)],
        18,
        BOX,
        2.0,
        device,
        rotations=rotations[rows],
        shifts_px=shifts[torch.arange(18) % 9],
    )
    found = search_grid(toy.data, toy.volumes, rotations.to(device), shifts.to(device), batch=7)
    assert distance_deg(found.poses.rotations, toy.poses.rotations).max() < 0.1
    assert torch.equal(found.poses.shifts_px, toy.poses.shifts_px)
    assert torch.equal(found.volume, toy.classes)
    assert torch.allclose(found.log_volume.exp().sum(1), torch.ones(18, device=device), atol=1e-4)


def test_search_grid_finds_any_pose_within_the_spacing(toy, device):
    found = search_grid(toy.data.within(8), toy.volumes, pose_grid(3, 18).to(device), shift_grid(1.0, 3).to(device))
    errors = distance_deg(found.poses.rotations, toy.poses.rotations)
    assert errors.median() < 12 and (errors < 20).float().mean() >= 0.95
    assert (found.poses.shifts_px - toy.poses.shifts_px).abs().max(1).values.median() < 1.0


@pytest.mark.parametrize("at_once", [1, 2**20])
def test_the_likeliest_rotations_are_the_best_of_all_scores_in_order(toy, device, generator, monkeypatch, at_once):
    monkeypatch.setattr("hetacumn.search.grid.SCORES_AT_ONCE", at_once)  # one image at a time, or all at once
    volumes = torch.cat([toy.volumes, toy.volumes.flip(3)])
    rotations, shifts = random_rotations(30, generator, device), shift_grid(1.0, 2).to(device)
    poses, volume = likeliest(toy.data, volumes, rotations, shifts, 3)
    assert len(poses) == 3 and volume.shape == (len(toy.data), 3)
    slices = Slicer(volumes)(rotations, toy.data.k).transpose(0, 1).flatten(0, 1)
    scores = log_likelihood(toy.data, slices, shifts).unflatten(2, (2, 30))  # (n, t, v, r)
    best = scores.amax(dim=(1, 2)).sort(dim=1, descending=True)
    assert best.values[:, 0].diff().ne(0).any()
    for place, found in enumerate(poses):
        rotation = best.indices[:, place]
        assert torch.equal(found.rotations, rotations[rotation])
        for image in range(len(toy.data)):
            t, v = divmod(int(scores[image, :, :, rotation[image]].argmax()), 2)
            assert torch.equal(found.shifts_px[image], shifts[t]) and volume[image, place] == v


def test_likeliest_returns_no_more_poses_than_rotations(toy, device, generator):
    poses, volume = likeliest(toy.data, toy.volumes, random_rotations(5, generator, device), shift_grid(0.0, 1).to(device), 16)
    assert len(poses) == 5 and volume.shape == (len(toy.data), 5) and not volume.any()


def test_the_posterior_spreads_over_all_rotations_without_signal_and_over_few_with_it(toy, device):
    rotations, shifts = pose_grid(2, 12).to(device), shift_grid(1.0, 3).to(device)
    nothing = open_rotations(toy.data[:9], torch.zeros_like(toy.volumes), rotations, shifts, batch=4)
    torch.testing.assert_close(nothing, torch.full_like(nothing, len(rotations)), rtol=1e-3, atol=0)
    clear = open_rotations(toy.data, toy.volumes, rotations, shifts)
    twice = open_rotations(toy.data, toy.volumes.expand(2, -1, -1, -1), rotations, shifts)
    assert clear.shape == (40,) and (clear >= 0.999).all() and clear.median() < 1.5
    torch.testing.assert_close(twice, clear, rtol=1e-3, atol=1e-3)  # the posterior is summed over the volumes


def test_the_evidence_is_the_mean_likelihood_over_the_grid(toy, device):
    rotations, shifts = pose_grid(1, 4).to(device), shift_grid(1.0, 2).to(device)
    found = search_grid(toy.data, toy.volumes, rotations, shifts)
    scores = log_likelihood(toy.data, Slicer(toy.volumes)(rotations, toy.data.k)[:, 0], shifts)
    expected = torch.logsumexp(scores.double().flatten(1), 1) - math.log(48 * 4)
    torch.testing.assert_close(found.log_evidence, expected.float(), rtol=1e-4, atol=0.05)


def test_the_evidence_does_not_change_if_the_volume_is_given_twice(toy, device):
    rotations, shifts = pose_grid(1, 4).to(device), shift_grid(1.0, 2).to(device)
    single = search_grid(toy.data, toy.volumes, rotations, shifts)
    double = search_grid(toy.data, toy.volumes.expand(2, -1, -1, -1), rotations, shifts)
    torch.testing.assert_close(double.log_evidence, single.log_evidence, rtol=1e-4, atol=0.02)
    torch.testing.assert_close(double.log_volume.exp(), torch.full((40, 2), 0.5, device=device), rtol=0, atol=0.03)


def test_read_mixed_equals_the_mixture_of_slices_and_the_slice_of_the_mixture(blobs, device, generator):
    volumes = torch.stack([m.volume(BOX, device) for m in (blobs, hinged(blobs, 0), hinged(blobs, 90))])
    rotations, k = random_rotations(5, generator, device), HalfPlane(BOX, device=device).k
    mixing = torch.randn(5, 3, generator=generator, device=device)
    slicer = Slicer(volumes)
    mixed = slicer.read_mixed(slicer.stencil(rotations, k), mixing)
    expected = torch.einsum("bjm,bj->bm", slicer(rotations, k), mixing.to(torch.complex64))
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-3)
    own = Slicer(torch.einsum("bj,jxyz->bxyz", mixing, volumes))(rotations, k)
    torch.testing.assert_close(mixed, own[torch.arange(5), torch.arange(5)], rtol=1e-3, atol=2e-3)


def test_gradients_of_slices_equal_finite_differences(device, generator):
    volumes = torch.randn(2, 4, 4, 4, generator=generator, device=device, dtype=torch.double, requires_grad=True)
    angles = torch.randn(2, 3, 3, generator=generator, device=device, dtype=torch.double, requires_grad=True)
    mixing = torch.randn(2, 2, generator=generator, device=device, dtype=torch.double)
    k = HalfPlane(4, device=device).k.double()[1:]  # at the origin a slice does not depend on the rotation

    def slices(volumes, angles):
        slicer = Slicer(volumes)
        stencil = slicer.stencil(torch.linalg.matrix_exp(angles - angles.mT), k)
        return torch.view_as_real(slicer.read(stencil)), torch.view_as_real(slicer.read_mixed(stencil, mixing))

    assert torch.autograd.gradcheck(slices, (volumes, angles), nondet_tol=1e-10)
