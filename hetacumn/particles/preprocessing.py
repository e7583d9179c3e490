"""Image preprocessing: background, outliers, field of view, noise spectrum.

Every function processes a few images in memory; none reads files. The order of the steps is: find flaws, centre, normalise by
the background, replace outlier pixels, cut to the common field of view, mask, Fourier-crop.
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

WEAK_EVIDENCE = 5.0  # number of standard errors below which a deviation is not significant
NOT_WHITE = 0.1  # deviation of a shell's noise power from 1 above which "auto" whitens
MASK_EDGE = 0.04  # width of the soft edge of the mask, as a fraction of the box
ROUNDS = 5  # maximum number of outlier searches in an image
RARE = 0.01  # if this fraction of the pixels of an image are extreme, or more, they do not count as outliers
SCALE_RANGE = 20.0  # factor by which the noise of an image may exceed or fall below the median of the file


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the preprocessing of images; the keys of ``stack`` in params.yaml.

    - ``box``: pixels per side after Fourier cropping, an even number; None keeps the box of the stack.
    - ``contrast``: contrast of protein in the file: ``white``, ``black``, or ``auto`` (estimated from the images).
    - ``diameter_A``: diameter in Å of a circle around the particle; pixels outside it are background. None means the circle
      inscribed in the box.
    - ``centre``: whether to centre each particle by whole pixels, if the file has origins (of an earlier refinement).
    - ``mask``: whether to set the background to 0, with a soft edge.
    - ``whiten``: whether to divide by the noise spectrum of the background in the likelihood: true, false, or ``auto`` (only if
      the spectrum is clearly not flat).
    - ``outlier_std``: pixels that differ from the mean of the background by more than this number of standard deviations are
      replaced by the mean.
    - ``amplitude_contrast``: amplitude contrast, from 0 to 1, for a file without the column rlnAmplitudeContrast. With None,
      the program refuses such a file.
    """

    box: int | None = None
    contrast: str = "auto"
    diameter_A: float | None = None
    centre: bool = True
    mask: bool = False
    whiten: bool | str = "auto"
    outlier_std: float = 10.0
    amplitude_contrast: float | None = None

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
        """Build the settings from ``stack`` of params.yaml; ``overrides`` replace values, and ``trained_share`` is ignored."""
        settings = {name: value for name, value in merged({"stack": stack, "": overrides}).items() if name != "trained_share"}
        return read_settings(cls, settings, "stack.")

    def radius_px(self, box: int, pixel_A: float) -> float:
        """Return the radius of the circle around the particle, in pixels, for images of ``box`` pixels per side."""
        return box // 2 if self.diameter_A is None else min(self.diameter_A / 2 / pixel_A, box // 2)


def flaws(images: Real[np.ndarray, "n y x"]) -> list[str | None]:
    """Return for each image why it is unusable, or None for a usable image."""
    low, high = images.min((1, 2)), images.max((1, 2))  # NaN propagates through both
    finite = np.isfinite(low) & np.isfinite(high)
    return [None if good and a < b else "is constant" if good else "holds NaN or infinity"
            for good, a, b in zip(finite, low, high, strict=True)]  # fmt: skip


def normalise(
    images: Float[Tensor, "n box box"], radius_px: float, outlier_std: float
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Normalise each image in place by the mean and the standard deviation of its background, and replace outlier pixels.

    The background is the area outside the circle of radius ``radius_px``. Pixels that differ from the mean by more than
    ``outlier_std`` standard deviations are outliers: they are replaced by the mean and excluded from the background. If the
    fraction of these pixels in an image is :data:`RARE` or more, they belong to a particle far above the noise and are kept. An
    image with a constant background becomes 0.

    Returns:
        The standard deviation of the background of each image, and the number of replaced pixels of each image.
    """
    outside = outside_circle(images.shape[-1], radius_px)
    std, mean = torch.std_mean(images[:, outside], dim=1)
    images.sub_(mean[:, None, None]).div_(torch.where(std > 0, std, torch.inf)[:, None, None])
    outliers = torch.zeros(len(images), dtype=torch.long)
    far = (images.abs() > outlier_std).float().mean((1, 2))
    for i in ((far > 0) & (far < RARE)).nonzero().squeeze(1).tolist():
        image, good = images[i], images[i].abs() <= outlier_std
        for _ in range(ROUNDS):  # excluding the largest outliers lowers the standard deviation and reveals smaller ones
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
    """Shift each image cyclically by whole pixels (x, y)."""
    rows = [torch.roll(image, (y, x), (0, 1)) for image, (x, y) in zip(images, moves_px.tolist(), strict=True)]
    return torch.stack(rows)


def outside_circle(box: int, radius_px: float) -> Bool[Tensor, "{box} {box}"]:
    """Return a mask that is true at distances above ``radius_px`` from the centre."""
    axis = torch.arange(box) - box // 2
    return axis.square()[:, None] + axis.square() > radius_px**2


def soft_circle(box: int, radius_px: float) -> Float[Tensor, "{box} {box}"]:
    """Return a mask that is 0 outside the circle and rises to 1 inside it, as a cosine over :data:`MASK_EDGE` of the box."""
    axis = torch.arange(box) - box // 2
    distance = (axis.square()[:, None] + axis.square()).sqrt()
    edge = MASK_EDGE * box
    ramp = ((min(radius_px, box // 2 - 1) - distance) / edge).clamp(0, 1)
    return 0.5 - 0.5 * torch.cos(torch.pi * ramp)


def crop_field(images: Float[Tensor, "*batch y x"], size: int) -> Float[Tensor, "*batch {size} {size}"]:
    """Cut out the central ``size`` pixels of images: smaller field of view, same pixel size."""
    first = images.shape[-1] // 2 - size // 2
    return images[..., first : first + size, first : first + size]


def finish(
    images: Float[Tensor, "n y x"], settings: Preprocessing, field_px: int, box: int, pixel_A: float
) -> Float[Tensor, "n {box} {box}"]:
    """Cut normalised images to ``field_px`` pixels, mask them if the settings require it, and Fourier-crop them to ``box``."""
    images = crop_field(images, field_px)
    if settings.mask:
        images = images * soft_circle(field_px, settings.radius_px(field_px, pixel_A))
    return images if box == field_px else crop_images(images, box)


def middles(images: Float[Tensor, "n box box"]) -> Float[Tensor, " n"]:
    """Return the mean brightness of each normalised image within a quarter of the box from the centre."""
    return images[:, ~outside_circle(images.shape[-1], images.shape[-1] / 4)].mean(1)


def evidence_of_white(brightness: Float[Tensor, " n"]) -> float:
    """Return the mean of ``brightness``, the result of :func:`middles`, in standard errors; positive for bright protein."""
    return float(brightness.mean() / (brightness.std() / len(brightness) ** 0.5)) if len(brightness) > 1 else 0.0


def noise_power(
    images: Float[Tensor, "n box box"], radius_px: float
) -> tuple[Float[Tensor, " shells"], Float[Tensor, " shells"]]:
    """Estimate the mean noise power in the ``box // 2`` shells of a centred transform, and its standard error.

    The estimate uses the pixels of normalised images outside the circle of radius ``radius_px``. The mean of these pixels is
    removed, which distorts shells 0 and 1; these shells get the values of shell 2. White noise of unit variance has power 1.
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
    first = min(2, box // 2 - 1)  # the transform of the window dominates the shells below
    mean[:first], error[:first] = mean[first].clone(), error[first].clone()
    return mean.clamp(min=1e-3), error


def is_white(power: Float[Tensor, " shells"], error: Float[Tensor, " shells"]) -> bool:
    """Return whether the noise power is 1 in every shell, within errors.

    A shell counts as different if its power deviates from 1 by more than :data:`NOT_WHITE` and by more than
    :data:`WEAK_EVIDENCE` standard errors.
    """
    away = (power - 1).abs()
    return not bool(((away > NOT_WHITE) & (away > WEAK_EVIDENCE * error)).any())
