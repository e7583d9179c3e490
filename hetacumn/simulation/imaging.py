"""Images of projections: CTF and shift, and departures of recorded images from this simple model.

A recorded image differs from a filtered projection with white noise. :class:`~hetacumn.simulation.settings.Realism` lists the
departures. The functions here add them to projections (contrast), to images (junk, neighbours) and to the noise (ice).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.physics.fourier import fft2c, ifft2c
from hetacumn.physics.optics import Optics, frequency_grid
from hetacumn.simulation.settings import Realism, Simulation

JUNK = ("particle", "empty", "ice", "carbon")  #: kinds of images, by their number in ``Truth.junk``
JUNK_STRENGTH = 2.0  # standard deviation of ice and carbon, in units of the mean standard deviation of the images
NEIGHBOUR_DISTANCE = (0.5, 0.75)  # range of the distance of a neighbour from the middle of the image, in units of the box


def form_images(
    projections: Float[Tensor, "b box box"], optics: Optics, shifts_px: Float[Tensor, "b 2"], envelope_A2: float = 0.0
) -> Float[Tensor, "b box box"]:
    """Filter projections by their CTFs and an envelope ``exp(-B k² / 4)``, and shift them by pixels (x, y).

    ``envelope_A2`` is the factor B in Å²; ``k`` is the spatial frequency in 1/Å.
    """
    box = projections.shape[-1]
    frequencies, shape = _half_plane(box, projections.device)
    angle = -2 * torch.pi * (shifts_px @ frequencies.T)
    transfer = torch.polar(_transfer(optics, frequencies, envelope_A2), angle).view(-1, *shape)
    return torch.fft.irfft2(torch.fft.rfft2(projections) * transfer, s=(box, box))


def vary_contrast(
    projections: Float[Tensor, "b box box"], standard_deviation: float, draw: np.random.Generator
) -> Float[Tensor, "b box box"]:
    """Multiply each projection by a normal factor of mean 1 and the given standard deviation, at least 0.1."""
    factors = torch.from_numpy(draw.normal(1, standard_deviation, len(projections))).float().clamp(min=0.1)
    return projections * factors.to(projections.device)[:, None, None]


def replace_by_junk(
    images: Float[Tensor, "b box box"],
    kinds: Int[Tensor, " b"],
    optics: Optics,
    envelope_A2: float,
    draw: np.random.Generator,
) -> Float[Tensor, "b box box"]:
    """Replace the images whose kind is not a particle by nothing, by ice or by the edge of a carbon film, with their CTF."""
    strength, box = JUNK_STRENGTH * images.std((1, 2)).mean(), images.shape[-1]
    images, makers = images.clone(), {"ice": _ice, "carbon": _carbon}
    for row in kinds.nonzero().squeeze(1).tolist():
        images[row] = 0
        if (kind := JUNK[int(kinds[row])]) in makers:
            wide = torch.from_numpy(makers[kind](2 * box, draw)).float().to(images.device)[None]
            (junk,) = _middle(form_images(wide, optics[[row]], wide.new_zeros(1, 2), envelope_A2), box)
            images[row] = strength * (junk - junk.mean()) / junk.std()
    return images


def add_neighbours(
    images: Float[Tensor, "b box box"],
    projections: Float[Tensor, "b box box"],
    optics: Optics,
    realism: Realism,
    draw: np.random.Generator,
) -> Float[Tensor, "b box box"]:
    """Add parts of neighbouring particles: other projections of the batch, off the middle, with the CTF of the image.

    The number of neighbours of an image is Poisson distributed with mean ``realism.neighbours``.
    """
    rows = np.repeat(np.arange(len(images)), draw.poisson(realism.neighbours, len(images)))
    if not len(rows):
        return images
    box, device = images.shape[-1], images.device
    distance = draw.uniform(*NEIGHBOUR_DISTANCE, len(rows)) * box
    angle = draw.uniform(0, 2 * np.pi, len(rows))
    offsets = torch.from_numpy(np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)).float().to(device)
    others = projections[torch.from_numpy(draw.integers(len(projections), size=len(rows))).to(device)]
    wide = torch.nn.functional.pad(others, 4 * (box // 2,))  # twice the box: a shift does not wrap around into the image
    index = torch.from_numpy(rows).to(device)
    return images.index_add(0, index, _middle(form_images(wide, optics[index], offsets, realism.envelope_A2), box))


class Noise:
    """The noise of a stack, with unit variance per pixel: noise of the detector, and structural noise of the ice.

    The CTF and the envelope filter the noise of the ice; the settings determine the spectrum of the noise of the detector.
    """

    def __init__(self, settings: Simulation, draw: np.random.Generator) -> None:
        self.box, self.realism, self.draw = settings.box, settings.realism, draw
        self.amplitude: Float[Tensor, "box box"] | None = None
        if settings.noise == "coloured":
            k = (frequency_grid(self.box) / settings.pixel_A).norm(dim=1).view(self.box, self.box)
            power = settings.noise_floor + 1 / (1 + (k * settings.noise_knee_A).square())
            self.amplitude = (power / power.mean()).sqrt()

    def sample(self, optics: Optics) -> Float[np.ndarray, "b box box"]:
        """Sample the noise of images with these optics."""
        share, envelope_A2 = self.realism.ice_share, self.realism.envelope_A2
        detector = self._white(len(optics))
        if self.amplitude is not None:
            detector = ifft2c(fft2c(torch.from_numpy(detector)) * self.amplitude).numpy()
        if not share:
            return detector
        white, still = torch.from_numpy(self._white(len(optics))), torch.zeros(len(optics), 2)
        ice = form_images(white, optics, still, envelope_A2)
        gain = _transfer(optics, frequency_grid(self.box), envelope_A2).square().mean(1).sqrt()
        return (share**0.5 * ice / gain[:, None, None]).numpy() + (1 - share) ** 0.5 * detector

    def _white(self, count: int) -> Float[np.ndarray, "b box box"]:
        return self.draw.standard_normal((count, self.box, self.box), dtype=np.float32)


def _half_plane(box: int, device: torch.device) -> tuple[Float[Tensor, "m 2"], tuple[int, ...]]:
    """Return the frequencies (x, y) of a real transform in cycles per pixel, and the shape of the transform."""
    ky, kx = torch.meshgrid(torch.fft.fftfreq(box, device=device), torch.fft.rfftfreq(box, device=device), indexing="ij")
    return torch.stack([kx, ky], dim=-1).view(-1, 2), tuple(kx.shape)


def _transfer(optics: Optics, frequencies: Float[Tensor, "m 2"], envelope_A2: float) -> Float[Tensor, "b m"]:
    ctf = optics.ctf(frequencies)
    if not envelope_A2:
        return ctf
    return ctf * torch.exp(-envelope_A2 / 4 * (frequencies / optics.pixel_A).square().sum(1))


def _middle(wide: Float[Tensor, "b wide wide"], box: int) -> Float[Tensor, "b {box} {box}"]:
    """Crop images of twice the box to their middle, which objects near the edge cannot reach by wrapping around."""
    rows = slice(box // 2, box // 2 + box)
    return wide[:, rows, rows]


def _plane(box: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates x and y of the pixels of an image of twice the box, in units of the box."""
    axis = 2 * (np.arange(box) - box // 2) / box
    x, y = np.meshgrid(axis, axis)
    return x, y


def _ice(box: int, draw: np.random.Generator) -> np.ndarray:
    """A few round crystals of different sizes."""
    x, y = _plane(box)
    crystals = zip(draw.uniform(-0.4, 0.4, (6, 2)), draw.uniform(0.03, 0.12, 6), strict=True)
    return sum(np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * width**2)) for at, width in crystals)


def _carbon(box: int, draw: np.random.Generator) -> np.ndarray:
    """A film with a straight edge and a rough surface on one side of it."""
    x, y = _plane(box)
    angle, edge = draw.uniform(0, 2 * np.pi), draw.uniform(-0.2, 0.2)
    inside = x * np.cos(angle) + y * np.sin(angle) > edge
    return inside * (1 + 0.5 * draw.standard_normal((box, box)))
