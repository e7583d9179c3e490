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
    PairedSlices,
    RotationGrid,
    cached_blocks,
    likeliest,
    log_likelihood,
    log_sum_exp_,
    open_rotations,
    pose_grid,
    posterior_,
    search_grid,
    shift_grid,
    sum_and_difference_,
)

BOX = 24


@pytest.fixture
def toy(blobs, device):
    """Return 40 high-signal images of one molecule."""
    return make_toy([blobs], 40, BOX, snr=2.0, device=device)


def unit_mixing(toy):
    return torch.ones(len(toy.data), 1, device=toy.volumes.device)


def test_the_posterior_is_a_softmax_also_for_scores_far_apart(device):
    of_images = torch.tensor([[0.0, -1.0, -700.0, -5000.0], [3e4, 3e4 - 2, -3e4, 0.0]], device=device)
    scores = of_images.view(2, 2, 1, 2).transpose(0, 1)  # the second axis is the image
    share = scores.clone()
    log_total = posterior_(share, 0.5)
    assert torch.allclose(share.transpose(0, 1).flatten(1), (0.5 * of_images).softmax(1), atol=1e-7)
    assert torch.allclose(log_total, (0.5 * of_images).logsumexp(1), rtol=1e-6, atol=1e-6)
    assert torch.allclose(log_sum_exp_(scores.clone(), (0, 2, 3)), of_images.logsumexp(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("in_cache", [1, 7, 2**17])
def test_blocks_of_any_size_give_the_same_result(in_cache, generator, monkeypatch):
    monkeypatch.setattr("hetacumn.search.grid.IN_CACHE", in_cache)
    scores = torch.randn(2, 5, 3, 4, generator=generator)
    blocks = cached_blocks(scores)
    assert torch.equal(torch.cat([torch.arange(5)[rows] for rows in blocks]), torch.arange(5))
    assert len(blocks) == (1 if in_cache == 2**17 else 5)
    pair = sum_and_difference_(scores.clone())
    torch.testing.assert_close(pair, torch.stack([scores[0] + scores[1], scores[0] - scores[1]]), rtol=0, atol=1e-6)
    share = scores.clone()
    torch.testing.assert_close(posterior_(share), scores.logsumexp((0, 2, 3)))
    torch.testing.assert_close(share.sum((0, 2, 3)), torch.ones(5))


def test_log_likelihood_is_the_sum_over_pixels(toy, generator, device):
    data, grid = toy.data[:4], RotationGrid(random_rotations(3, generator, device))
    shifts = shift_grid(1.5, 2).to(device)
    scores = log_likelihood(data, PairedSlices.of_grid(toy.volumes, grid, data.k), shifts)
    assert scores.shape == (2, 4, 4, 3)
    for t, shift in enumerate(shifts):
        for s, rotation in enumerate(grid.rotations):
            poses = Poses(rotation.expand(4, 3, 3), shift.expand(4, 2))
            expected = likelihood_at(data, toy.volumes, unit_mixing(toy)[:4], poses)
            torch.testing.assert_close(scores[s // 3, :, t, s % 3], expected, rtol=1e-3, atol=0.05)


def test_a_grid_consists_of_rotations_and_their_half_turns_in_the_plane():
    grid = pose_grid(1, 4)
    assert len(grid) == len(grid.rotations) == 48 and torch.equal(grid.rotations[:24], grid.first)
    turned = distance_deg(grid.rotations[24:], grid.first)
    torch.testing.assert_close(turned, torch.full_like(turned, 180.0), rtol=0, atol=0.1)
    assert torch.equal(grid.rotations[24:, 2], grid.first[:, 2])  # the viewing direction
    apart = distance_deg(grid.rotations[:, None], grid.rotations)[~torch.eye(48, dtype=torch.bool)]
    assert apart.min() > 40
    with pytest.raises(ValueError, match="5 in-plane rotations; expected a positive even number"):
        pose_grid(1, 5)


def test_the_truth_is_likelier_than_other_poses(toy, generator, device):
    other = Poses(perturb(toy.poses.rotations, 10.0, generator), toy.poses.shifts_px)
    here, there = (likelihood_at(toy.data, toy.volumes, unit_mixing(toy), poses) for poses in (toy.poses, other))
    assert (here > there).float().mean() > 0.95


def test_search_grid_finds_poses_on_the_grid_exactly(blobs, device):
    grid, shifts = pose_grid(2, 12), shift_grid(2.0, 3)
    rows = torch.arange(0, len(grid), 29)[:18]
    toy = make_toy(
        [blobs, hinged(blobs, 0)],
        18,
        BOX,
        2.0,
        device,
        rotations=grid.rotations[rows],
        shifts_px=shifts[torch.arange(18) % 9],
    )
    found = search_grid(toy.data, toy.volumes, grid.to(device), shifts.to(device), batch=7)
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
    grid, shifts = RotationGrid(random_rotations(15, generator, device)), shift_grid(1.0, 2).to(device)
    slices = PairedSlices.of_grid(volumes, grid, toy.data.k)
    poses, volume = likeliest(toy.data, slices, grid, shifts, 3)
    assert len(poses) == 3 and volume.shape == (len(toy.data), 3)
    scores = log_likelihood(toy.data, slices, shifts).unflatten(3, (2, 15)).movedim(0, 3).flatten(3)  # (n, t, v, r)
    best = scores.amax(dim=(1, 2)).sort(dim=1, descending=True)
    assert best.values[:, 0].diff().ne(0).any()
    for place, found in enumerate(poses):
        rotation = best.indices[:, place]
        assert torch.equal(found.rotations, grid.rotations[rotation])
        for image in range(len(toy.data)):
            t, v = divmod(int(scores[image, :, :, rotation[image]].argmax()), 2)
            assert torch.equal(found.shifts_px[image], shifts[t]) and volume[image, place] == v


def test_likeliest_returns_no_more_poses_than_rotations(toy, device, generator):
    grid = RotationGrid(random_rotations(3, generator, device))
    slices = PairedSlices.of_grid(toy.volumes, grid, toy.data.k)
    poses, volume = likeliest(toy.data, slices, grid, shift_grid(0.0, 1).to(device), 16)
    assert len(poses) == 6 and volume.shape == (len(toy.data), 6) and not volume.any()


def test_the_posterior_spreads_over_all_rotations_without_signal_and_over_few_with_it(toy, device):
    grid, shifts = pose_grid(2, 12).to(device), shift_grid(1.0, 3).to(device)
    nothing = open_rotations(toy.data[:9], torch.zeros_like(toy.volumes), grid, shifts, batch=4)
    torch.testing.assert_close(nothing, torch.full_like(nothing, len(grid)), rtol=1e-3, atol=0)
    clear = open_rotations(toy.data, toy.volumes, grid, shifts)
    twice = open_rotations(toy.data, toy.volumes.expand(2, -1, -1, -1), grid, shifts)
    assert clear.shape == (40,) and (clear >= 0.999).all() and clear.median() < 1.5
    torch.testing.assert_close(twice, clear, rtol=1e-3, atol=1e-3)  # the posterior is summed over the volumes


def test_the_evidence_is_the_mean_likelihood_over_the_grid(toy, device):
    grid, shifts = pose_grid(1, 4).to(device), shift_grid(1.0, 2).to(device)
    found = search_grid(toy.data, toy.volumes, grid, shifts)
    scores = log_likelihood(toy.data, PairedSlices.of_grid(toy.volumes, grid, toy.data.k), shifts)
    expected = torch.logsumexp(scores.double(), (0, 2, 3)) - math.log(48 * 4)
    torch.testing.assert_close(found.log_evidence, expected.float(), rtol=1e-4, atol=0.05)


def test_the_evidence_does_not_change_if_the_volume_is_given_twice(toy, device):
    grid, shifts = pose_grid(1, 4).to(device), shift_grid(1.0, 2).to(device)
    single = search_grid(toy.data, toy.volumes, grid, shifts)
    double = search_grid(toy.data, toy.volumes.expand(2, -1, -1, -1), grid, shifts)
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
