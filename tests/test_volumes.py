"""Central slices equal projections; rotation of volumes; the soft sphere."""

import pytest
import torch

from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.rotations import MIRROR, from_euler, random_rotations
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import radius_grid, recentred, rotate, soft_sphere

BOX = 32


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def slice_image(volume, rotation, padding=2.0):
    plane = HalfPlane(volume.shape[-1], device=volume.device)
    return plane.unpack(Slicer(volume[None], padding)(rotation[None], plane.k)[0, 0])


def test_a_slice_at_the_identity_is_the_sum_along_z(blobs, device):
    volume = blobs.volume(BOX, device)
    image = slice_image(volume, torch.eye(3, device=device))
    assert torch.allclose(image, volume.sum(0), atol=1e-3 * float(image.max()))


def test_a_slice_along_y_is_the_sum_along_y(blobs, device):
    volume = blobs.volume(BOX, device)
    rotation = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], device=device)  # to view (x, -z, y)
    expected = volume.sum(1).flip(0).roll(1, 0)  # rows are y_view = -z; -0 is 0
    assert torch.allclose(slice_image(volume, rotation), expected, atol=1e-3 * float(expected.max()))


def test_a_slice_is_the_closed_form_projection_of_gaussians(blobs, device, generator):
    volume = blobs.volume(BOX, device)
    for rotation in random_rotations(5, generator, device):
        expected = blobs.moved(rotation).projection(BOX, device)
        image = slice_image(volume, rotation)
        assert correlation(image, expected) > 0.998
        assert float(image.sum()) == pytest.approx(float(expected.sum()), rel=1e-2)


def test_more_padding_gives_more_accurate_slices(blobs, device, generator):
    volume, rotation = blobs.volume(BOX, device), random_rotations(1, generator, device)[0]
    expected = blobs.moved(rotation).projection(BOX, device)
    coarse, fine = (correlation(slice_image(volume, rotation, padding), expected) for padding in (1.0, 2.0))
    assert coarse < fine


def test_an_image_does_not_determine_the_hand(blobs, device, generator):
    rotation = random_rotations(1, generator, device)[0]
    mirrored = blobs.moved(mirrored=True).volume(BOX, device)
    one = slice_image(blobs.volume(BOX, device), rotation)
    other = slice_image(mirrored, MIRROR.to(device) @ rotation)
    assert torch.allclose(one, other, atol=1e-3 * float(one.max()))


def test_a_slice_is_linear_in_the_volumes_and_has_their_order(blobs, device, generator):
    volumes = torch.stack([blobs.volume(BOX, device), blobs.moved(mirrored=True).volume(BOX, device)])
    rotations, k = random_rotations(4, generator, device), HalfPlane(BOX, 8, device).k
    both = Slicer(volumes)(rotations, k)
    assert both.shape == (4, 2, len(k))
    assert torch.allclose(Slicer(volumes.sum(0)[None])(rotations, k)[:, 0], both.sum(1), atol=1e-3)


def test_slices_have_gradients_in_volume_and_rotation(blobs, device):
    volume = blobs.volume(BOX, device)[None].requires_grad_()
    angles = torch.tensor([[10.0, 20.0, 30.0]], device=device, requires_grad=True)
    Slicer(volume)(from_euler(angles), HalfPlane(BOX, 8, device).k).abs().square().sum().backward()
    assert volume.grad.abs().sum() > 0 and angles.grad.abs().sum() > 0


def test_a_table_of_only_the_frequencies_read_gives_the_same_slices_and_gradients(blobs, device, generator):
    blob, rotations = blobs.volume(BOX, device), random_rotations(5, generator, device)
    volumes = blob[None].clone().requires_grad_()
    k = HalfPlane(BOX, 7, device=device).k
    whole, small = Slicer(volumes), Slicer(volumes, reach=7)
    assert len(small.table) < 0.5 * len(whole.table)
    one, other = whole(rotations, k), small(rotations, k)
    torch.testing.assert_close(other, one, rtol=0, atol=5e-3 * float(one.detach().abs().max()))
    towards = torch.randn(one.shape, generator=generator, device=device)
    to_one, to_other = (torch.autograd.grad((slices.real * towards).sum(), volumes)[0] for slices in (one, other))
    for change in (blob, blob.flip(0), blob.roll((3, -2), (1, 2))):  # all have low frequencies
        ours, expected = (float((gradient * change).sum()) for gradient in (to_other, to_one))
        assert abs(ours - expected) < 0.01 * float(to_one.norm() * change.norm())


@pytest.mark.parametrize("mirrored", [False, True])
def test_rotate_undoes_a_rotation_a_mirror_and_a_shift(blobs, device, generator, mirrored):
    rotation = random_rotations(1, generator, device)[0]
    at_px = torch.tensor([1.2, -0.7, 0.5])
    moved = blobs.moved(rotation, at_px / BOX, mirrored).volume(BOX, device)  # x = ±R x0 + t
    back = rotate(moved, rotation, mirrored, at_px.to(device))
    assert correlation(back, blobs.volume(BOX, device)) > 0.985  # read trilinearly


def test_rotate_by_the_identity_changes_nothing(blobs, device):
    volume = blobs.volume(BOX, device)
    assert torch.allclose(rotate(volume, torch.eye(3, device=device)), volume, atol=1e-4)


def test_soft_sphere_falls_from_one_to_zero_inside_the_box(device):
    mask, radius = soft_sphere(BOX, device=device), radius_grid(BOX, device)
    assert radius[BOX // 2, BOX // 2, BOX // 2] == 0 and radius[BOX // 2, BOX // 2, 0] == BOX // 2
    assert (mask[radius <= BOX // 2 - 3] == 1).all() and (mask[radius >= BOX // 2 - 1] < 1e-6).all()
    assert ((mask >= 0) & (mask <= 1)).all()


def test_recentred_volumes_have_their_centre_of_mass_at_the_origin(blobs, device):
    volume = blobs.volume(BOX, device)
    centred = recentred(volume)
    moved = rotate(volume, torch.eye(3, device=device), shift_px=torch.tensor([2.0, -3.0, 1.0], device=device))
    torch.testing.assert_close(recentred(torch.stack([volume, moved])), torch.stack([centred, centred]), rtol=0, atol=1e-3)
    axis = torch.arange(BOX, device=device) - BOX // 2
    mass = centred.clamp(min=0).square()
    for dims in ((0, 1), (0, 2), (1, 2)):
        assert abs(float((mass.sum(dims) * axis).sum() / mass.sum())) < 0.05
    assert recentred(torch.full((BOX, BOX, BOX), -1.0, device=device)).isfinite().all()  # no positive voxel
