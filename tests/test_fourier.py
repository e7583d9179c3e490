"""Centred transforms, cropping and the half-plane, by known answers and round trips."""

import pytest
import torch

from hetacumn.physics.fourier import (
    crop_images,
    crop_large_volumes,
    crop_volumes,
    fft2c,
    fft3c,
    ifft2c,
    ifft3c,
    pad_volumes,
    padded_rfft3c,
    shells,
)
from hetacumn.physics.half_plane import HalfPlane


def images(device, generator, n=3, box=16):
    return torch.randn(n, box, box, generator=generator, device=device)


def band_limited(device, generator, box=16, radius=6):
    plane = HalfPlane(box, radius, device)
    return plane, plane.unpack(plane.pack(images(device, generator, box=box)))


def test_transforms_round_trip(device, generator):
    x = images(device, generator)
    assert torch.allclose(ifft2c(fft2c(x)), x, atol=1e-5)
    v = torch.randn(2, 8, 8, 8, generator=generator, device=device)
    assert torch.allclose(ifft3c(fft3c(v)), v, atol=1e-5)


def test_the_image_transform_keeps_squared_norms(device, generator):
    x = images(device, generator)
    assert torch.allclose(fft2c(x).abs().square().sum(), x.square().sum(), rtol=1e-5)


def test_a_point_at_the_origin_has_a_flat_real_transform(device):
    x = torch.zeros(16, 16, device=device)
    x[8, 8] = 1
    assert torch.allclose(fft2c(x), torch.full_like(x, 1 / 16).cfloat(), atol=1e-7)


def test_a_wave_is_one_frequency(device):
    axis = torch.arange(16, device=device) - 8
    x = torch.cos(2 * torch.pi * 3 * axis / 16).expand(16, 16)  # varies along x
    peaks = fft2c(x).abs() > 1
    assert peaks.nonzero().tolist() == [[8, 8 - 3], [8, 8 + 3]]  # (ky, kx)


def test_shells_count_from_the_centre(device):
    radius = shells(8, 3, device)
    assert radius[4, 4, 4] == 0 and radius[4, 4, 0] == 4 and radius[3, 4, 4] == 1
    assert radius.shape == (8, 8, 8)


def test_crop_keeps_white_noise_white_and_of_unit_variance(device, generator):
    x = images(device, generator, n=200, box=64)
    small = crop_images(x, 32)
    assert float(small.var()) == pytest.approx((31 / 32) ** 2, abs=0.02)  # Nyquist is dropped


def test_crop_multiplies_the_amplitude_of_a_smooth_image_by_the_ratio_of_boxes(blobs, device):
    large, small = blobs.projection(64, device), blobs.projection(32, device)
    # the same field of view: the projection along z counts half as many voxels, the crop doubles amplitudes
    assert torch.allclose(crop_images(large, 32), 2 * 2 * small, atol=0.02 * float(4 * small.max()))


def test_crop_volumes_keeps_density(blobs, device):
    large, small = blobs.volume(64, device), blobs.volume(32, device)
    assert torch.allclose(crop_volumes(large, 32), small, atol=0.02 * float(small.max()))
    assert float(crop_volumes(large, 32).mean()) == pytest.approx(float(large.mean()), rel=1e-4)


def test_crop_volumes_keeps_the_coefficients_below_the_new_nyquist_frequency(device, generator):
    whole = torch.randn(2, 24, 24, 24, generator=generator, device=device)
    small = fft3c(crop_volumes(whole, 16)) * (24 / 16) ** 3
    inside = fft3c(whole)[:, 5:20, 5:20, 5:20]  # -7 to 7, of -12 to 11
    torch.testing.assert_close(small[:, 1:, 1:, 1:], inside, rtol=1e-4, atol=1e-3)
    assert small[:, 0].abs().max() < 1e-3  # the coefficients at -Nyquist have no partners at +Nyquist


def test_only_volumes_above_the_largest_box_are_cropped(generator, device):
    volumes = torch.randn(2, 16, 16, 16, generator=generator, device=device)
    assert crop_large_volumes(volumes, 16) is volumes
    assert crop_large_volumes(volumes, 8).equal(crop_volumes(volumes, 8))


def test_crop_to_the_same_box_changes_nothing_within_the_band(device, generator):
    _, x = band_limited(device, generator)
    assert torch.allclose(crop_images(x, 16), x, atol=1e-5)


def test_pad_volumes_keeps_the_origin_in_the_middle(device):
    volume = torch.zeros(4, 4, 4, device=device)
    volume[2, 2, 2] = 1
    padded = pad_volumes(volume, 10)
    assert padded.shape == (10, 10, 10) and padded[5, 5, 5] == 1 and padded.sum() == 1


@pytest.mark.parametrize(("box", "size"), [(8, 16), (10, 20), (6, 8), (8, 8)])
def test_padded_rfft3c_is_half_of_the_transform_of_the_padded_volume(device, generator, box, size):
    volumes = torch.randn(2, box, box, box, generator=generator, device=device)
    whole = fft3c(pad_volumes(volumes, size))
    half = padded_rfft3c(volumes, size)
    assert torch.allclose(half[..., : size // 2], whole[..., size // 2 :], atol=1e-4)
    assert torch.allclose(half[..., size // 2], whole[..., 0], atol=1e-4)  # at Nyquist, -k and k are the same coefficient


def test_half_plane_packs_and_unpacks(device, generator):
    plane, x = band_limited(device, generator)
    assert torch.allclose(plane.unpack(plane.pack(x)), x, atol=1e-5)


def test_half_plane_has_every_coefficient_or_its_conjugate_once():
    plane = HalfPlane(16, 6)
    axis = torch.arange(-7, 8)
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    inside = int((kx.square() + ky.square() <= 36).sum())
    assert plane.weight.sum() == inside
    both = torch.cat([plane.k, -plane.k[plane.weight == 2]])
    assert len(both.unique(dim=0)) == inside


def test_half_plane_weights_give_the_distance_of_images(device, generator):
    plane, x = band_limited(device, generator)
    packed = plane.pack(x)
    distance = (plane.weight * (packed[0] - packed[1]).abs().square()).sum()
    assert torch.allclose(distance, (x[0] - x[1]).square().sum(), rtol=1e-4)


def test_half_plane_is_ordered_by_radius_so_that_a_slice_is_a_coarser_image(device, generator):
    fine, coarse = HalfPlane(16, 7, device), HalfPlane(16, 4, device)
    count = fine.count(4)
    assert count == len(coarse)
    assert {tuple(k) for k in fine.k[:count].tolist()} == {tuple(k) for k in coarse.k.tolist()}
    assert fine.k.norm(dim=1).diff().min() > -1e-4


def test_half_plane_never_reaches_nyquist():
    assert HalfPlane(16, 100).radius == 7


def test_half_plane_refuses_odd_boxes():
    with pytest.raises(ValueError, match="box is 15; expected an even number"):
        HalfPlane(15)


def test_translate_by_whole_pixels_is_a_roll(device, generator):
    plane, x = band_limited(device, generator)
    shift = torch.tensor([[2.0, -1.0]], device=device).expand(3, 2)  # 2 to the right, 1 up
    moved = plane.unpack(plane.translate(plane.pack(x), shift))
    assert torch.allclose(moved, torch.roll(x, (-1, 2), dims=(-2, -1)), atol=1e-5)


def test_translate_moves_density_by_plus_t(blobs, device):
    box = 32
    plane = HalfPlane(box, device=device)
    shift_px = torch.tensor([1.3, -2.6], device=device)
    moved = plane.unpack(plane.translate(plane.pack(blobs.projection(box, device)), shift_px))
    expected = blobs.moved(shift=(1.3 / box, -2.6 / box, 0.0)).projection(box, device)
    assert torch.allclose(moved, expected, atol=0.01 * float(expected.max()))


def test_translations_add_up(device, generator):
    plane, x = band_limited(device, generator)
    packed = plane.pack(x)
    a, b = torch.randn(2, 3, 2, generator=generator, device=device)
    twice = plane.translate(plane.translate(packed, a), b)
    assert torch.allclose(twice, plane.translate(packed, a + b), atol=1e-5)


def test_rotation_of_the_coefficients_by_90_degrees_rotates_the_image(generator, device):
    """The image has no coefficients at -Nyquist; the rotation is about the pixel ``box // 2``, from x to y."""
    plane = HalfPlane(16, device=device)
    images = plane.unpack(plane.pack(torch.randn(3, 16, 16, generator=generator, device=device)))
    turned = plane.unpack(plane.quarter_turned(plane.pack(images)))
    inner = images[:, 1:, 1:]  # pixels -7 to 7 about the origin
    torch.testing.assert_close(turned[:, 1:, 1:], torch.rot90(inner, -1, (1, 2)), rtol=1e-4, atol=1e-4)
    part = plane.pack(images)[:, : plane.count(5)]
    torch.testing.assert_close(plane.quarter_turned(part), plane.quarter_turned(plane.pack(images))[:, : plane.count(5)])


def test_the_radial_mean_averages_over_each_shell(device):
    plane = HalfPlane(16, device=device)
    radius = plane.k.norm(dim=1).round()
    torch.testing.assert_close(plane.radial_mean(radius), radius)
    values = plane.k[:, 0].square() + 0.3
    mean = plane.radial_mean(values.expand(2, -1))[1]
    for shell in (0, 1, 5):
        there = radius == shell
        expected = (values * plane.weight)[there].sum() / plane.weight[there].sum()
        torch.testing.assert_close(mean[there], expected.expand(int(there.sum())))
