"""Pose search: the likelihood against a sum over pixels, planted poses found, refinement that climbs."""

import math

import pytest
import torch
from toys import hinged, make_toy

from hetacumn.fourier import HalfPlane
from hetacumn.particles import Poses
from hetacumn.search import (
    log_likelihood,
    pose_grid,
    pose_score,
    refine_local,
    refine_newton,
    search_grid,
    shift_grid,
)
from hetacumn.so3 import distance_deg, perturb, random_rotations
from hetacumn.volumes import Slicer

BOX = 24


@pytest.fixture
def toy(blobs, device):
    """Forty clear images of one molecule."""
    return make_toy([blobs], 40, BOX, snr=2.0, device=device)


def one(toy):
    return torch.ones(len(toy.data), 1, device=toy.volumes.device)


def pixel_likelihood(data, slices, shifts_px):
    """``½‖Y‖² - ½‖Y - X‖²`` over the pixels of images ``(b, box, box)``."""
    images = data.plane.unpack(data.y)
    models = data.plane.unpack(data.plane.translate(slices * data.ctf, shifts_px))
    return 0.5 * (images.square() - (images - models).square()).sum((1, 2))


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
        for s, one_slice in enumerate(slices):
            expected = pixel_likelihood(data, one_slice.expand(4, -1), shift.expand(4, 2))
            torch.testing.assert_close(scores[:, t, s], expected, rtol=1e-3, atol=0.05)


def test_pose_score_is_the_same_likelihood(toy, generator, device):
    data, rotations, shifts = (
        toy.data[:4],
        random_rotations(3, generator, device),
        shift_grid(1.5, 2).to(device)[:3],
    )
    slicer = Slicer(toy.volumes)
    grid = log_likelihood(data, slicer(rotations, data.k)[:, 0], shifts).diagonal(dim1=1, dim2=2)
    each = pose_score(data, slicer, one(toy)[:4], rotations.expand(4, 3, 3, 3), shifts.expand(4, 3, 2))
    torch.testing.assert_close(each, grid, rtol=1e-3, atol=0.05)


def test_the_truth_is_likelier_than_other_poses(toy, generator, device):
    slicer = Slicer(toy.volumes)
    other = perturb(toy.poses.rotations, 10.0, generator)
    rotations, shifts = (
        torch.stack([toy.poses.rotations, other], 1),
        toy.poses.shifts_px[:, None].expand(-1, 2, 2),
    )
    scores = pose_score(toy.data, slicer, one(toy), rotations, shifts)
    assert (scores[:, 0] > scores[:, 1]).float().mean() > 0.95


def test_search_grid_finds_what_lies_on_the_grid(blobs, device):
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
    found = search_grid(
        toy.data.within(8), toy.volumes, pose_grid(3, 18).to(device), shift_grid(1.0, 3).to(device)
    )
    errors = distance_deg(found.poses.rotations, toy.poses.rotations)
    assert errors.median() < 12 and (errors < 20).float().mean() >= 0.95
    assert (found.poses.shifts_px - toy.poses.shifts_px).abs().max(1).values.median() < 1.0


def test_the_evidence_is_the_mean_likelihood_over_the_grid(toy, device):
    rotations, shifts = pose_grid(1, 4).to(device), shift_grid(1.0, 2).to(device)
    found = search_grid(toy.data, toy.volumes, rotations, shifts)
    scores = log_likelihood(toy.data, Slicer(toy.volumes)(rotations, toy.data.k)[:, 0], shifts)
    expected = torch.logsumexp(scores.double().flatten(1), 1) - math.log(48 * 4)
    torch.testing.assert_close(found.log_evidence, expected.float(), rtol=1e-4, atol=0.05)


def test_the_evidence_of_one_volume_twice_is_that_of_one(toy, device):
    rotations, shifts = pose_grid(1, 4).to(device), shift_grid(1.0, 2).to(device)
    prior = torch.tensor([0.3, 0.7], device=device).log()
    single = search_grid(toy.data, toy.volumes, rotations, shifts)
    double = search_grid(toy.data, toy.volumes.expand(2, -1, -1, -1), rotations, shifts, prior)
    torch.testing.assert_close(double.log_evidence, single.log_evidence, rtol=1e-4, atol=0.02)
    torch.testing.assert_close(double.log_volume, prior.expand(40, 2), rtol=0, atol=0.05)


def test_newton_climbs_from_five_degrees_off_to_the_optimum(blobs, generator, device):
    toy = make_toy([blobs], 40, BOX, snr=30.0, device=device)
    slicer, truth = Slicer(toy.volumes), toy.poses
    start = Poses(perturb(truth.rotations, 5 / 3**0.5, generator), truth.shifts_px + 0.3)
    poses, scores = refine_newton(toy.data, slicer, one(toy), start, iterations=8, batch=17)
    at_truth = pose_score(toy.data, slicer, one(toy), truth.rotations[:, None], truth.shifts_px[:, None])[
        :, 0
    ]
    assert (scores >= at_truth - 0.01).float().mean() >= 0.95
    assert distance_deg(poses.rotations, truth.rotations).median() < 1.0
    assert (poses.shifts_px - truth.shifts_px).abs().median() < 0.1


@pytest.mark.parametrize("degrees", [3.0, 40.0])
def test_no_refinement_leaves_an_image_worse_or_lies_of_its_score(toy, generator, device, degrees):
    slicer = Slicer(toy.volumes)
    start = Poses(perturb(toy.poses.rotations, degrees, generator), toy.poses.shifts_px + 0.5)

    def score(poses):
        return pose_score(toy.data, slicer, one(toy), poses.rotations[:, None], poses.shifts_px[:, None])[
            :, 0
        ]

    before = score(start)
    for poses, scores in (
        refine_newton(toy.data, slicer, one(toy), start, iterations=4),
        refine_local(toy.data, slicer, one(toy), start, (5.0, 1.0), (0.5, 0.1), 3, 6, generator, batch=13),
    ):
        assert (scores >= before - 0.01).all() and scores.mean() > before.mean() + 1
        torch.testing.assert_close(score(poses), scores, rtol=1e-4, atol=0.05)


def test_a_mixture_is_read_as_it_is_mixed(blobs, device, generator):
    volumes = torch.stack([m.volume(BOX, device) for m in (blobs, hinged(blobs, 0), hinged(blobs, 90))])
    rotations, k = random_rotations(5, generator, device), HalfPlane(BOX, device=device).k
    mixing = torch.randn(5, 3, generator=generator, device=device)
    slicer = Slicer(volumes)
    mixed = slicer.read_mixed(slicer.stencil(rotations, k), mixing)
    expected = torch.einsum("bjm,bj->bm", slicer(rotations, k), mixing.to(torch.complex64))
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-3)
    own = Slicer(torch.einsum("bj,jxyz->bxyz", mixing, volumes))(rotations, k)
    torch.testing.assert_close(mixed, own[torch.arange(5), torch.arange(5)], rtol=1e-3, atol=2e-3)


def test_gradients_of_slices_are_those_of_finite_differences(device, generator):
    volumes = torch.randn(
        2, 4, 4, 4, generator=generator, device=device, dtype=torch.double, requires_grad=True
    )
    angles = torch.randn(2, 3, 3, generator=generator, device=device, dtype=torch.double, requires_grad=True)
    mixing = torch.randn(2, 2, generator=generator, device=device, dtype=torch.double)
    k = HalfPlane(4, device=device).k.double()[1:]  # at the origin a slice does not depend on the rotation

    def slices(volumes, angles):
        slicer = Slicer(volumes)
        stencil = slicer.stencil(torch.linalg.matrix_exp(angles - angles.mT), k)
        return torch.view_as_real(slicer.read(stencil)), torch.view_as_real(
            slicer.read_mixed(stencil, mixing)
        )

    assert torch.autograd.gradcheck(slices, (volumes, angles), nondet_tol=1e-10)
