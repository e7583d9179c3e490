"""Image preprocessing: background, outliers, field of view, noise spectrum.

Every function works on a few images at a time and knows no files. The order is: find flaws, centre, normalise by the
background, replace outlier pixels, bring to the common field of view, mask, Fourier-crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import merged, read_settings
from hetacumn.physics.fourier import crop_images, fft2c, shells

WEAK_EVIDENCE = 5.0  # standard errors of the mean brightness, below which the contrast is a guess
NOT_WHITE = 0.1  # relative deviation of a shell's noise power from 1, beyond which "auto" whitens
MASK_EDGE = 0.04  # of the box: how wide the mask's soft edge is
ROUNDS = 5  # of looking for outliers
RARE = 0.01  # of the pixels of an image: more are no outliers
SCALE_RANGE = 20.0  # how far the noise of an image may be from the usual, either way


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the preprocessing of images; the keys of ``stack`` in params.yaml.

    ``box``: even, pixels after Fourier cropping; None keeps the box of the stack. ``contrast``: of protein in the file: white,
    black, or auto, which the images decide. ``diameter_A``: the diameter of a circle about the particle, in Å; pixels outside
    are background; None is the circle inscribed in the box. ``centre``: move each image, by whole pixels, so that the particle
    is in the middle, if the file has origins (of an earlier refinement). ``mask``: set the background to 0 (soft edge).
    ``whiten``: divide the likelihood by the noise spectrum of the background: true, false, or auto, where this spectrum is
    plainly not flat. ``outlier_std``: pixels further from the background's mean, in standard deviations, are replaced by it.
    """

    box: int | None = None
    contrast: str = "auto"
    diameter_A: float | None = None
    centre: bool = True
    mask: bool = False
    whiten: bool | str = "auto"
    outlier_std: float = 10.0

    def __post_init__(self) -> None:
        if self.contrast not in ("auto", "white", "black"):
            raise HetacumnError(f"contrast is {self.contrast!r}; expected one of auto, white, black")
        if self.whiten not in (True, False, "auto"):
            raise HetacumnError(f"whiten is {self.whiten!r}; expected true, false or auto")
        for name in ("diameter_A", "outlier_std"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise HetacumnError(f"{name} is {value!r}; expected a number above 0")

    @classmethod
    def from_params(cls, stack: object, **overrides: object) -> Preprocessing:
        """Read ``stack`` of params.yaml with ``overrides`` on top; keys that only training reads are left out."""
        settings = {name: value for name, value in merged({"stack": stack, "": overrides}).items() if name != "trained_share"}
        return read_settings(cls, settings, "stack.")

    def radius_px(self, box: int, pixel_A: float) -> float:
        """Compute the radius of the particle's circle, in pixels of images ``box`` wide."""
        return box // 2 if self.diameter_A is None else min(self.diameter_A / 2 / pixel_A, box // 2)


def flaws(images: Real[np.ndarray, "n y x"]) -> list[str | None]:
    """Tell for each image why it is unusable, or None."""
    low, high = images.min((1, 2)), images.max((1, 2))  # NaN passes through both
    finite = np.isfinite(low) & np.isfinite(high)
    return [None if good and a < b else "is constant" if good else "holds NaN or infinity"
            for good, a, b in zip(finite, low, high, strict=True)]  # fmt: skip


def normalise(
    images: Float[Tensor, "n box box"], radius_px: float, outlier_std: float
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Normalise each image in place by the mean and the standard deviation of its background, and replace outlier pixels.

    The background lies outside the circle. Pixels further than ``outlier_std`` from the mean are outliers: they are replaced by
    the mean and do not count as background. Where such pixels are many, they belong to a particle far above its noise, and
    stay. The function returns the standard deviation of each background and how many pixels of each image were replaced. An
    image whose background is constant becomes 0.
    """
    outside = outside_circle(images.shape[-1], radius_px)
    std, mean = torch.std_mean(images[:, outside], dim=1)
    images.sub_(mean[:, None, None]).div_(torch.where(std > 0, std, torch.inf)[:, None, None])
    outliers = torch.zeros(len(images), dtype=torch.long)
    far = (images.abs() > outlier_std).float().mean((1, 2))
    for i in ((far > 0) & (far < RARE)).nonzero().squeeze(1).tolist():
        image, good = images[i], images[i].abs() <= outlier_std
        for _ in range(ROUNDS):  # without the furthest outliers, nearer ones stand out
            rest = image[good & outside]
            spread = rest.std()
            image.sub_(rest.mean()).div_(spread)
            std[i] *= spread
            found = good & (image.abs() > outlier_std)
            good &= ~found
            if not found.any():
                break
        image[~good] = 0
        outliers[i] = (~good).sum()
    return std, outliers


def roll(images: Float[Tensor, "n y x"], moves_px: Int[Tensor, "n 2"]) -> Float[Tensor, "n y x"]:
    """Move each image by whole pixels (x, y), cyclically."""
    rows = [torch.roll(image, (y, x), (0, 1)) for image, (x, y) in zip(images, moves_px.tolist(), strict=True)]
    return torch.stack(rows)


def outside_circle(box: int, radius_px: float) -> Bool[Tensor, "{box} {box}"]:
    """Make a mask that is true further than ``radius_px`` from the centre."""
    axis = torch.arange(box) - box // 2
    return axis.square()[:, None] + axis.square() > radius_px**2


def soft_circle(box: int, radius_px: float) -> Float[Tensor, "{box} {box}"]:
    """Make a mask that is 1 within the circle and falls to 0 at its rim as a cosine."""
    axis = torch.arange(box) - box // 2
    distance = (axis.square()[:, None] + axis.square()).sqrt()
    edge = MASK_EDGE * box
    ramp = ((min(radius_px, box // 2 - 1) - distance) / edge).clamp(0, 1)
    return 0.5 - 0.5 * torch.cos(torch.pi * ramp)


def crop_field(images: Float[Tensor, "*batch y x"], size: int) -> Float[Tensor, "*batch {size} {size}"]:
    """Cut the middle ``size`` pixels out of images: the field of view becomes smaller, the pixel size stays."""
    first = images.shape[-1] // 2 - size // 2
    return images[..., first : first + size, first : first + size]


def finish(
    images: Float[Tensor, "n y x"], settings: Preprocessing, field_px: int, box: int, pixel_A: float
) -> Float[Tensor, "n {box} {box}"]:
    """Bring normalised images to the common field of view, mask them if so set, and Fourier-crop them to ``box``."""
    images = crop_field(images, field_px)
    if settings.mask:
        images = images * soft_circle(field_px, settings.radius_px(field_px, pixel_A))
    return images if box == field_px else crop_images(images, box)


def middles(images: Float[Tensor, "n box box"]) -> Float[Tensor, " n"]:
    """Compute the mean brightness of the middle of each normalised image."""
    return images[:, ~outside_circle(images.shape[-1], images.shape[-1] / 4)].mean(1)


def evidence_of_white(brightness: Float[Tensor, " n"]) -> float:
    """Compute the mean brightness of the middles in standard errors; it is positive where protein is bright."""
    return float(brightness.mean() / (brightness.std() / len(brightness) ** 0.5)) if len(brightness) > 1 else 0.0


def noise_power(
    images: Float[Tensor, "n box box"], radius_px: float
) -> tuple[Float[Tensor, " shells"], Float[Tensor, " shells"]]:
    """Estimate the mean power of the noise in the ``box // 2`` shells of a centred transform, and its standard error.

    The estimate uses the pixels of normalised images outside the circle. Their mean is removed, so that the first shells take
    the value of the first shell that the window resolves. White noise of unit variance has power 1.
    """
    box = images.shape[-1]
    window = outside_circle(box, radius_px).float()
    cut = (images - (images * window).sum((1, 2), keepdim=True) / window.sum()) * window
    power = fft2c(cut).abs().square() * (box * box / window.sum())
    shell = shells(box, 2).flatten()
    inner = shell < box // 2
    count = torch.bincount(shell[inner])
    per_image = power.new_zeros(len(images), box // 2).index_add_(1, shell[inner], power.flatten(1)[:, inner]) / count
    mean = per_image.mean(0)
    error = per_image.std(0) / len(images) ** 0.5 if len(images) > 1 else torch.full_like(mean, torch.inf)
    first = min(2, box // 2 - 1)  # below, the window's own transform fills the shells
    mean[:first], error[:first] = mean[first].clone(), error[first].clone()
    return mean.clamp(min=1e-3), error


def is_white(power: Float[Tensor, " shells"], error: Float[Tensor, " shells"]) -> bool:
    """Tell whether no shell's power differs plainly from 1."""
    away = (power - 1).abs()
    return not bool(((away > NOT_WHITE) & (away > WEAK_EVIDENCE * error)).any())
