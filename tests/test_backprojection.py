"""Back-projection recovers the volume in its scale, and half maps agree only where there is signal."""

import torch
from toys import make_toy

from hetacumn.particles.metadata import Poses
from hetacumn.physics.fsc import fsc
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.volumes import soft_sphere
from hetacumn.reconstruction import back_projection, gridding
from hetacumn.reconstruction.back_projection import back_project

BOX = 24


def test_back_projection_recovers_the_volume_from_high_signal_images(blobs, device):
    toy = make_toy([blobs], 600, BOX, snr=50.0, device=device)
    volume, true = back_project(toy.data, toy.poses), toy.volumes[0]
    curve = fsc((volume * soft_sphere(BOX, device=device))[None], true[None])[0]
    assert (curve[1:9] > 0.97).all()
    assert abs(float((volume * true).sum() / true.square().sum()) - 1) < 0.1  # the scale too, but for the Wiener filter


def test_wrong_poses_give_no_volume(blobs, device, generator):
    toy = make_toy([blobs], 300, BOX, snr=50.0, device=device)
    wrong = Poses(random_rotations(600, generator, device)[300:], toy.poses.shifts_px)
    curve = fsc(back_project(toy.data, wrong)[None], toy.volumes)[0]
    assert curve[4:9].mean() < 0.5


def test_the_batch_size_does_not_change_the_volume(blobs, device):
    toy = make_toy([blobs], 50, BOX, snr=1.0, device=device)
    whole, parts = back_project(toy.data, toy.poses), back_project(toy.data, toy.poses, batch=7)
    torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


def test_half_maps_agree_for_signal_and_not_for_pure_noise(blobs, device, generator):
    toy = make_toy([blobs], 800, BOX, snr=1.0, device=device)
    noise = type(toy.data)(torch.randn_like(toy.data.y), toy.data.ctf, toy.data.plane)
    halves, mask = (slice(0, 400), slice(400, 800)), soft_sphere(BOX, device=device)
    signal, none = (fsc(*((back_project(data[rows], toy.poses[rows]) * mask)[None] for rows in halves))[0]
                    for data in (toy.data, noise))  # fmt: skip
    assert (signal[1:6] > 0.8).all() and none[3:].abs().mean() < 0.2


def test_both_kernels_of_gridding_give_the_same_volume(blobs, monkeypatch):
    """finufft's kernel serves CPUs, the trilinear kernel other devices; here both compute on a CPU."""
    toy = make_toy([blobs], 400, BOX, snr=5.0)
    one = back_project(toy.data, toy.poses)
    monkeypatch.setattr(back_projection, "spread", gridding._spread_trilinear)
    monkeypatch.setattr(back_projection, "kernel_profile", gridding._trilinear_profile)
    other = back_project(toy.data, toy.poses)
    sphere = soft_sphere(BOX)
    assert (fsc(one * sphere, other * sphere)[1:10] > 0.995).all()
    assert abs(float((one * other * sphere).sum() / (one.square() * sphere).sum()) - 1) < 0.02


def test_gridding_keeps_the_sum_and_the_mean_position_of_values(generator):
    points = 8 * torch.rand(3, 50, generator=generator) - 4
    values = torch.rand(1, 50, generator=generator).to(torch.complex64)
    axis = torch.arange(32.0) - 16
    for spread in (gridding._spread_finufft, gridding._spread_trilinear):
        grid = spread(points, values, 32)[0].real
        torch.testing.assert_close(grid.sum(), values.real.sum(), rtol=2e-3, atol=0)
        means = torch.stack([(grid.sum(others) * axis).sum() for others in ((0, 1), (0, 2), (1, 2))]) / grid.sum()
        direct = (points * values.real).sum(1) / values.real.sum()
        torch.testing.assert_close(means, direct, atol=0.02, rtol=0)
