"""Image preprocessing: flaws, background, outliers, masks and the noise spectrum."""

import numpy as np
import pytest
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.particles.metadata import ParticleMetadata, Particles
from hetacumn.particles.observations import observe
from hetacumn.particles.preprocessing import (
    Preprocessing,
    finish,
    flaws,
    is_white,
    noise_power,
    normalise,
    outside_circle,
    soft_circle,
)
from hetacumn.physics.fourier import fft2c, ifft2c, shells
from hetacumn.physics.optics import Optics


def coloured_noise(n: int, box: int, power: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return ``n`` images of noise with the given mean power in each shell."""
    white = torch.randn(n, box, box, generator=torch.Generator().manual_seed(seed))
    return ifft2c(fft2c(white) * power.sqrt()[shells(box, 2).clamp(max=len(power) - 1)])


def falling(box: int) -> torch.Tensor:
    """Return a noise spectrum like that of real images: high at low frequencies."""
    k = torch.arange(box // 2) / box
    return 0.5 + 4 / (1 + (12 * k) ** 2)


def test_each_flaw_is_named():
    images = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32)
    images[1, 2, 3], images[2], images[3, 0, 0] = np.nan, 5.0, np.inf
    assert flaws(images) == [None, "holds NaN or infinity", "is constant", "holds NaN or infinity"]


def test_an_outlier_does_not_move_the_background():
    clean = 50 + 3 * torch.randn(6, 64, 64, generator=torch.Generator().manual_seed(0))
    spoiled = clean.clone()
    spoiled[2, 1, 1] = 1e5  # a cosmic ray in the background
    spoiled[4, 32, 32] = -1e5  # and one within the particle
    _, none = normalise(clean, 32, 10.0)
    std, outliers = normalise(spoiled, 32, 10.0)
    assert none.sum() == 0 and outliers.tolist() == [0, 0, 1, 0, 1, 0]
    assert spoiled[2, 1, 1].abs() < 0.1 and spoiled[4, 32, 32] == 0
    kept = torch.ones(64, 64, dtype=torch.bool)
    kept[1, 1] = kept[32, 32] = False
    torch.testing.assert_close(spoiled[:, kept], clean[:, kept], atol=0.02, rtol=0)
    assert std[[0, 1, 3, 4, 5]].sub(3).abs().max() < 0.3


def test_a_particle_far_above_its_noise_is_no_outlier():
    axis = torch.arange(64) - 32
    blob = torch.exp(-(axis.square()[:, None] + axis.square()) / (2 * 5.0**2))
    images = 1000 * blob + torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    _, outliers = normalise(images, 28, 10.0)
    assert outliers.sum() == 0 and images[:, 32, 32].min() > 500


def test_a_mask_keeps_the_centre_and_zeroes_the_rim():
    settings = Preprocessing(diameter_A=60.0, mask=True)
    images = torch.ones(1, 64, 64)
    masked = finish(images, settings, 64, 64, 2.0)[0]
    assert (masked[outside_circle(64, 15)] == 0).all()
    assert (masked[~outside_circle(64, 15 - 0.04 * 64)] > 0.999).all()


@pytest.mark.parametrize("white", [True, False])
def test_the_noise_spectrum_is_that_of_the_background(white):
    box = 64
    power = torch.ones(box // 2) if white else falling(box)
    images = coloured_noise(400, box, power)
    axis = torch.arange(box) - box // 2
    blob = 3 * torch.exp(-(axis.square()[:, None] + axis.square()) / (2 * 5.0**2))
    found, error = noise_power(images + blob, 24)  # the particle is within the circle
    assert (found[3:-1] / power[3:-1] - 1).abs().max() < 0.12
    assert is_white(found, error) == white


def test_a_few_images_are_not_enough_to_call_white_noise_coloured():
    found, error = noise_power(coloured_noise(3, 32, torch.ones(16)), 16)
    assert (found - 1).abs().max() > 0.1 and is_white(found, error)


def test_observations_of_coloured_noise_are_white_and_their_ctf_is_divided_by_the_same_factor():
    box, n = 32, 500
    power = falling(box)
    images = coloured_noise(n, box, power)
    one = torch.ones(n)
    optics = Optics(1e4 * one, 1e4 * one, 0 * one, 300 * one, 2.7 * one, 0.1 * one, 0 * one, pixel_A=4.0)
    raw = observe(Particles(images, ParticleMetadata([""] * n, optics)))
    data = observe(Particles(images, ParticleMetadata([""] * n, optics, noise=power)))
    inner = data.plane.k.norm(dim=1) > 1
    per_coefficient = data.y.abs().square().mean(0)[inner]
    assert per_coefficient.mean() == pytest.approx(1, abs=0.01)
    assert per_coefficient.std() < 0.12  # 1 for the raw observations
    torch.testing.assert_close(raw.y / data.y, (raw.ctf / data.ctf).to(raw.y.dtype), rtol=1e-3, atol=1e-3)


def test_settings_come_from_params_and_unknown_ones_are_refused():
    stack = {"box": 32, "contrast": "auto", "trained_share": 0.7}
    assert Preprocessing.from_params(stack, box=24) == Preprocessing(box=24)
    with pytest.raises(HetacumnError, match="unknown setting stack.diameter; did you mean stack.diameter_A"):
        Preprocessing.from_params({**stack, "diameter": 200})


def test_the_soft_circle_is_round():
    circle = soft_circle(32, 10)
    assert torch.equal(circle, circle.T) and circle[16, 16] == 1 and circle[0, 0] == 0
    torch.testing.assert_close(circle[16, 17:], circle[16, 1:16].flip(0))
