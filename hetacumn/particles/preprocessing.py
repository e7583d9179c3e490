"""Image preprocessing: background, outliers, field of view, noise spectrum.

Every function works on a few images at a time and knows no files. The order is: find flaws, centre, normalise by the
background, replace outlier pixels, bring to the common field of view, mask, Fourier-crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
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
    """How images are preprocessed; the keys of ``stack`` in params.yaml.

    ``box``: even, pixels after Fourier cropping; None keeps the box of the stack. ``contrast``: of protein in the file: white,
    black, or auto, which asks the images. ``diameter_A``: of a circle about the particle, in Å; pixels outside are background;
    None is the circle inscribed in the box. ``centre``: move each image, by whole pixels, so that the particle is in the
    middle, if the file has origins (of an earlier refinement). ``mask``: set the background to 0 (soft edge).
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

    def __post_init__(self):
        if self.contrast not in ("auto", "white", "black"):
            raise HetacumnError(f"contrast is {self.contrast!r}; expected one of auto, white, black")
        if self.whiten not in (True, False, "auto"):
            raise HetacumnError(f"whiten is {self.whiten!r}; expected true, false or auto")
        for name in ("diameter_A", "outlier_std"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise HetacumnError(f"{name} is {value!r}; expected a number above 0")

    @classmethod
    def from_params(cls, stack: object, **more) -> Preprocessing:
        """Read ``stack`` of params.yaml, with ``more`` laid over it; keys that only training reads are left out."""
        settings = {name: value for name, value in merged({"stack": stack, "": more}).items() if name != "trained_share"}
        return read_settings(cls, settings, "stack.")

    def radius_px(self, box: int, pixel_A: float) -> float:
        """The radius of the particle's circle, in pixels of images ``box`` wide."""
        return box // 2 if self.diameter_A is None else min(self.diameter_A / 2 / pixel_A, box // 2)


def flaws(images: np.ndarray) -> list[str | None]:
    """Tell for each image ``(n, y, x)`` why it is unusable, or None."""
    low, high = images.min((1, 2)), images.max((1, 2))  # NaN passes through both
    finite = np.isfinite(low) & np.isfinite(high)
    return [None if good and a < b else "is constant" if good else "holds NaN or infinity"
            for good, a, b in zip(finite, low, high, strict=True)]  # fmt: skip


def normalise(images: Tensor, radius_px: float, outlier_std: float) -> tuple[Tensor, Tensor]:
    """Subtract the background's mean and divide by its standard deviation, image by image, in place; and replace pixels
    that are further from it than ``outlier_std`` by it.

    The background is what lies outside the circle, without such pixels. Where they are many, they are no outliers but a
    particle far above its noise, and stay. Returns its standard deviations ``(n,)`` and how
    many pixels of each image were replaced. An image whose background is constant comes out as 0.
    """
    outside = outside_circle(images.shape[-1], radius_px)
    std, mean = torch.std_mean(images[:, outside], dim=1)
    images.sub_(mean[:, None, None]).div_(torch.where(std > 0, std, torch.inf)[:, None, None])
    outliers = torch.zeros(len(images), dtype=torch.long)
    far = (images.abs() > outlier_std).float().mean((1, 2))
    for i in ((far > 0) & (far < RARE)).nonzero().squeeze(1).tolist():
        image, good = images[i], images[i].abs() <= outlier_std
        for _ in range(ROUNDS):  # without the furthest ones, nearer ones stand out
            rest = image[good & outside]
            spread = rest.std()
            image.sub_(rest.mean()).div_(spread)
            std[i] *= spread
            more = good & (image.abs() > outlier_std)
            good &= ~more
            if not more.any():
                break
        image[~good] = 0
        outliers[i] = (~good).sum()
    return std, outliers


def roll(images: Tensor, moves_px: Tensor) -> Tensor:
    """Move each image ``(n, y, x)`` by whole pixels ``(n, 2)`` (x, y), cyclically."""
    rows = [torch.roll(image, (y, x), (0, 1)) for image, (x, y) in zip(images, moves_px.tolist(), strict=True)]
    return torch.stack(rows)


def outside_circle(box: int, radius_px: float) -> Tensor:
    """Make a mask ``(box, box)``, true further than ``radius_px`` from the centre."""
    axis = torch.arange(box) - box // 2
    return axis.square()[:, None] + axis.square() > radius_px**2


def soft_circle(box: int, radius_px: float) -> Tensor:
    """Make a mask ``(box, box)``: 1 within the circle, falling to 0 at its rim as a cosine."""
    axis = torch.arange(box) - box // 2
    distance = (axis.square()[:, None] + axis.square()).sqrt()
    edge = MASK_EDGE * box
    ramp = ((min(radius_px, box // 2 - 1) - distance) / edge).clamp(0, 1)
    return 0.5 - 0.5 * torch.cos(torch.pi * ramp)


def crop_field(images: Tensor, size: int) -> Tensor:
    """Cut the middle ``size`` pixels out of images ``(..., y, x)``: a smaller field of view, the same pixel size."""
    first = images.shape[-1] // 2 - size // 2
    return images[..., first : first + size, first : first + size]


def finish(images: Tensor, settings: Preprocessing, field_px: int, box: int, pixel_A: float) -> Tensor:
    """Bring normalised images to the common field of view, mask them if so set, and Fourier-crop them to ``box``."""
    images = crop_field(images, field_px)
    if settings.mask:
        images = images * soft_circle(field_px, settings.radius_px(field_px, pixel_A))
    return images if box == field_px else crop_images(images, box)


def middles(images: Tensor) -> Tensor:
    """Mean brightness ``(n,)`` of the middle of normalised images ``(n, box, box)``."""
    return images[:, ~outside_circle(images.shape[-1], images.shape[-1] / 4)].mean(1)


def evidence_of_white(brightness: Tensor) -> float:
    """Mean brightness ``(n,)`` of the middles, in standard errors: positive where protein is bright."""
    return float(brightness.mean() / (brightness.std() / len(brightness) ** 0.5)) if len(brightness) > 1 else 0.0


def noise_power(images: Tensor, radius_px: float) -> tuple[Tensor, Tensor]:
    """Mean power of the noise in shells of a centred transform, ``(box // 2,)``, and its standard error.

    From what lies outside the circle, in normalised images ``(n, box, box)``; the mean over the window is removed, so
    that the first shells take the value of the first that the window can tell. 1 is white noise of unit variance.
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


def is_white(power: Tensor, error: Tensor) -> bool:
    """Tell whether no shell's power differs plainly from 1."""
    away = (power - 1).abs()
    return not bool(((away > NOT_WHITE) & (away > WEAK_EVIDENCE * error)).any())
