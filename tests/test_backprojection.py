"""Back-projection recovers the volume in its scale, and half maps agree only where there is signal."""

import torch
from toys import make_toy

from hetacumn.particles.metadata import Poses
from hetacumn.physics.fsc import fsc
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.volumes import soft_sphere
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
