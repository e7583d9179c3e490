"""Sharpening undoes a known decay and adds no noise beyond the resolution; masks hold the molecule and little else."""

import pytest
import torch

from hetacumn.physics.fourier import fft3c, shells
from hetacumn.physics.fsc import shell_frequencies
from hetacumn.physics.volumes import radius_grid
from hetacumn.reconstruction.local_resolution import local_resolution
from hetacumn.reconstruction.masks import make_mask
from hetacumn.reconstruction.postprocessing import compare_halves, filter_shells, guinier_b_factor, sharpened

BOX, VOXEL_A = 64, 1.0


def power(volume):
    shell = shells(BOX, 3).flatten()
    return torch.bincount(shell, fft3c(volume).abs().square().flatten())[: BOX // 2]


@pytest.fixture
def rough(generator):
    """Return a ball of random density: its amplitudes are constant, as those of random atoms are."""
    return torch.randn(BOX, BOX, BOX, generator=generator) * (radius_grid(BOX) < 16)


def test_the_b_factor_of_a_known_decay_is_found_and_undone(rough):
    frequency = shell_frequencies(BOX, VOXEL_A)
    decayed = filter_shells(rough, torch.exp(-80 / 4 * frequency.square()))
    assert guinier_b_factor(decayed, VOXEL_A, 3.0) == pytest.approx(80, rel=0.05)
    assert guinier_b_factor(decayed, VOXEL_A, 7.0) == 0  # too coarse for a Guinier plot
    restored, last = power(sharpened(decayed, VOXEL_A, 80, 3.0)), int(BOX * VOXEL_A / 3.0)
    torch.testing.assert_close(restored[1:last], power(rough)[1:last], rtol=0.02, atol=0)
    assert restored[last + 4 :].max() < 1e-6 * restored[last]


def test_a_mask_holds_a_ball_and_not_the_solvent(generator):
    ball = (radius_grid(BOX) < 12).float()
    mask = make_mask(ball + 0.3 * torch.randn(BOX, BOX, BOX, generator=generator), VOXEL_A)
    assert (mask[ball > 0] == 1).all() and mask[radius_grid(BOX) > 22].max() == 0
    assert 0 <= float(mask.min()) and float(mask.max()) == 1


def test_a_mask_of_pure_noise_is_not_empty(generator):
    assert make_mask(torch.randn(BOX, BOX, BOX, generator=generator), VOXEL_A).max() == 1


def test_phase_randomisation_removes_the_correlation_that_a_mask_makes(generator):
    """Independent noise in a tight mask correlates only by the mask. The corrected curve must not resolve it."""
    first, second = torch.randn(2, BOX, BOX, BOX, generator=generator)
    smooth = torch.exp(-0.5 * (shell_frequencies(BOX, VOXEL_A) * 20).square())
    common = 30 * filter_shells(torch.randn(BOX, BOX, BOX, generator=generator), smooth)
    ball = radius_grid(BOX)
    mask = (0.5 - 0.5 * torch.tanh((ball - 10) / 1.5)) * (1 + 0.5 * torch.sin(ball))
    curves = compare_halves(first + common, second + common, mask)
    beyond = slice(12, 31)
    assert curves.corrected[beyond].abs().mean() < curves.masked[beyond].abs().mean() + 0.02
    assert curves.corrected[beyond].max() < 0.143
    assert curves.resolution_A(VOXEL_A) > 6
    assert (curves.signal_to_noise()[16:] == 0).all()


def test_local_resolution_is_finer_where_the_half_maps_agree_at_higher_frequency(generator):
    """The left half of a map has detail to 4 Å, the right half to 12 Å; beyond, the half maps are independent noise."""
    frequency = shell_frequencies(BOX, VOXEL_A)

    def limited(volume, finest_A):
        return filter_shells(volume, (frequency < 1 / finest_A).float())

    left = (torch.arange(BOX) < BOX // 2).float()
    common = torch.randn(BOX, BOX, BOX, generator=generator)
    signal = 5 * (limited(common, 4.0) * left + limited(common, 12.0) * (1 - left))
    halves = [signal + 2 * torch.randn(BOX, BOX, BOX, generator=generator) for _ in range(2)]
    mask = (radius_grid(BOX) < 28).float()
    values = local_resolution(*halves, mask, VOXEL_A, 4.0)
    fine, coarse = values[32, 32, 16], values[32, 32, 48]
    assert values.shape == mask.shape and 3 < fine < 5 and 8 < coarse < 16, (fine, coarse)
