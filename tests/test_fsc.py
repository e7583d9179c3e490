"""Fourier shell correlation and alignment of volumes, by known answers."""

import pytest
import roma
import torch
from torch.nn.functional import normalize

from hetacumn.physics.alignment import align_volume
from hetacumn.physics.fsc import fsc, resolution_A, shell_frequencies
from hetacumn.physics.rotations import Frame, random_rotations
from hetacumn.physics.volumes import rotate


def test_fsc_of_a_volume_with_itself_is_one_at_any_scale(device, generator):
    volume = torch.randn(2, 16, 16, 16, generator=generator, device=device)
    assert torch.allclose(fsc(volume, 3 * volume), torch.ones(2, 8, device=device), atol=1e-5)
    assert torch.allclose(fsc(volume, -volume), -torch.ones(2, 8, device=device), atol=1e-5)


def test_fsc_of_independent_noise_is_near_zero(device, generator):
    a, b = torch.randn(2, 32, 32, 32, generator=generator, device=device)
    assert fsc(a, b)[4:].abs().max() < 0.2


def test_fsc_of_two_noisy_copies_is_the_signal_over_signal_and_noise(device, generator):
    signal, first, second = torch.randn(3, 64, 64, 64, generator=generator, device=device)
    curve = fsc(signal + first, signal + second)  # S / (S + N) = 1/2
    assert abs(float(curve[10:].mean()) - 0.5) < 0.01


def test_fsc_refuses_volumes_of_two_boxes():
    with pytest.raises(ValueError, match=r"16.*32"):
        fsc(torch.zeros(16, 16, 16), torch.zeros(32, 32, 32))


@pytest.mark.parametrize(
    "curve, expected",
    [
        ([1, 1, 1, 1, 1, 1, 1, 1], 8.0),  # no crossing: Nyquist of 4 Å voxels
        ([1, 1, 1, 1, 0, 0, 0, 0], 64 / 3.5),  # half way between shells 3 and 4, in a box of 64 Å
        ([1, 1, 0.9, 0.4, 0.9, 0, 0, 0], 64 / 2.8),  # the first crossing counts
        ([1, 0.2, 1, 1, 1, 1, 1, 1], 64.0),  # nothing is resolved
    ],
)
def test_resolution_is_at_the_first_crossing_of_the_curve(curve, expected):
    assert resolution_A(torch.tensor(curve, dtype=torch.float32), voxel_A=4.0) == pytest.approx(expected)


def test_shell_frequencies_end_below_nyquist():
    frequencies = shell_frequencies(16, 4.0)
    assert frequencies[0] == 0 and frequencies[4] == pytest.approx(1 / 16) and len(frequencies) == 8


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("box", [32, 48])
def test_align_volume_recovers_rotation_hand_and_shift(blobs, device, generator, box, mirrored):
    rotation = random_rotations(1, generator, device)[0]
    at_px = torch.tensor([1.7, -0.8, 1.3])
    estimated = blobs.moved(rotation, at_px / box, mirrored).volume(box, device)
    reference = blobs.volume(box, device)
    axis = normalize(torch.randn(3, generator=generator, device=device), dim=0)
    frame = Frame(rotation @ roma.rotvec_to_rotmat(axis * torch.deg2rad(torch.tensor(10.0))), mirrored)
    assert fsc(estimated, reference)[3:6].mean() < 0.7
    aligned = align_volume(estimated, reference, frame)
    assert fsc(aligned, reference)[1 : box // 4].min() > 0.99
    assert aligned.device.type == device


@pytest.mark.parametrize("mirrored", [False, True])
def test_align_volume_finds_an_unknown_frame_in_noise(blobs, device, generator, mirrored):
    rotation = random_rotations(1, generator, device)[0]
    estimated = blobs.moved(rotation, torch.tensor([0.05, -0.02, 0.04]), mirrored).volume(32, device)
    noise = torch.randn(32, 32, 32, generator=generator, device=device)
    aligned = align_volume(estimated + noise * estimated.std() / 2, blobs.volume(32, device))
    assert fsc(aligned, blobs.volume(32, device))[1:7].min() > 0.9


def test_align_volume_and_rotate_use_the_same_convention_of_frames(blobs, device):
    frame = Frame(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], device=device), True)
    estimated = blobs.volume(32, device)
    reference = rotate(estimated, frame.rotation, mirrored=True)
    aligned = align_volume(estimated, reference, frame)
    assert torch.allclose(aligned, reference, atol=0.02 * float(estimated.max()))


def test_align_volume_refuses_two_boxes():
    with pytest.raises(ValueError, match=r"16.*32"):
        align_volume(torch.zeros(16, 16, 16), torch.zeros(32, 32, 32))
