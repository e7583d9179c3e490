"""Observations: Fourier coefficients of particle images with their CTFs, and the fingerprint of a stack."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields, replace
from math import isclose
from pathlib import Path

import torch
from jaxtyping import Bool, Complex, Float, Inexact
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Particles
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.optics import Rows


@dataclass(frozen=True)
class Observations:
    """The independent Fourier coefficients of all images of a stack, with their CTFs.

    The coefficients are ordered by radius, so ``within(radius)`` returns a coarser stack as a view.

    - ``y``: coefficients of the images, normalised to noise of unit variance.
    - ``ctf``: CTF at each coefficient, divided by the noise amplitude where the noise is not white, see :func:`observe`.
    - ``plane``: frequencies of the coefficients.
    - ``magnification``: matrix of anisotropic magnification of each image; None for the identity. Back-projection and
      Gauss-Newton refinement use the matrix; exhaustive pose search and the network ignore it.
    """

    y: Complex[Tensor, "n m"]
    ctf: Float[Tensor, "n m"]
    plane: HalfPlane
    magnification: Float[Tensor, "n 2 2"] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Rows) -> Observations:
        magnification = None if self.magnification is None else self.magnification[rows]
        return Observations(self.y[rows], self.ctf[rows], self.plane, magnification)

    def within(self, radius: float) -> Observations:
        """Keep only the coefficients within ``radius`` (integer frequencies)."""
        m = self.plane.count(radius)
        return replace(self, y=self.y[:, :m], ctf=self.ctf[:, :m])

    def coarsened(self, box: int) -> Observations:
        """Fourier-crop the images to ``box`` pixels, with noise of unit variance; images of at most ``box`` pixels are kept.

        Shifts are in pixels: a shift of the cropped images is smaller by the ratio of the boxes.
        """
        if box >= self.plane.box:
            return self
        plane = HalfPlane(box, device=self.y.device)
        return replace(self, y=self.y[:, : len(plane)], ctf=self.ctf[:, : len(plane)], plane=plane)

    def evenly_spaced(self, most: int) -> Observations:
        """Return at most ``most`` images, evenly spaced in the stack from the first to the last."""
        rows = torch.linspace(0, len(self) - 1, min(most, len(self)), device=self.y.device)
        return self[rows.round().long()]

    def repeated(self, times: int) -> Observations:
        """Repeat the whole stack several times, one copy after the other."""
        if times == 1:
            return self
        magnification = None if self.magnification is None else self.magnification.repeat(times, 1, 1)
        return Observations(self.y.repeat(times, 1), self.ctf.repeat(times, 1), self.plane, magnification)

    def translated(self, shifts_px: Float[Tensor, "n 2"]) -> Observations:
        """Return the images shifted by ``t`` (x, y) pixels, one shift for each image."""
        return replace(self, y=self.plane.translate(self.y, shifts_px))

    def axes(self, rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 3"]:
        """Return the rotations with the magnification of each image: their first two rows are the axes of its slice."""
        if self.magnification is None:
            return rotations
        return torch.cat([self.magnification.mT @ rotations[:, :2], rotations[:, 2:]], dim=1)

    @property
    def k(self) -> Float[Tensor, "m 2"]:
        """The integer frequencies (kx, ky)."""
        return self.plane.k[: self.y.shape[1]]

    @property
    def weight(self) -> Float[Tensor, " m"]:
        """The number of coefficients of the full plane that each coefficient represents (1 or 2)."""
        return self.plane.weight[: self.y.shape[1]]


def observe(particles: Particles, device: torch.device | str = "cpu", chunk: int = 4096) -> Observations:
    """Compute the Fourier coefficients and CTFs of a stack of normalised particles, ``chunk`` images at a time.

    The function removes the phases of odd aberrations from the coefficients.

    If the stack has a noise spectrum, the function divides the coefficients and the CTFs by the amplitude of the noise. The
    noise is then white, and the volume that explains the images is unchanged.
    """
    plane = HalfPlane(particles.box, device=device)
    frequencies = plane.k / particles.box
    amplitude = None
    if particles.metadata.noise is not None:
        amplitude = particles.metadata.noise.to(device)[plane.k.norm(dim=1).round().long()].sqrt()
    y = torch.empty(len(particles), len(plane), dtype=torch.complex64, device=device)
    ctf = torch.empty(len(particles), len(plane), device=device)
    for rows in batch_slices(len(particles), chunk):
        optics = particles.metadata.optics[rows].to(device)
        y[rows] = plane.pack(particles.images[rows].to(device, non_blocking=True))
        ctf[rows] = optics.ctf(frequencies)
        if (phase := optics.phase(frequencies)) is not None:
            y[rows] *= torch.polar(torch.ones_like(phase), -phase)
    if amplitude is not None:
        y, ctf = y.div_(amplitude), ctf.div_(amplitude)
    magnification = particles.metadata.optics.magnification
    return Observations(y, ctf, plane, None if magnification is None else magnification.to(device))


def signal_power(data: Observations) -> Float[Tensor, " m"]:
    """Estimate the power of projections before the CTF, averaged over shells, in units of the noise power (minimum 1e-3)."""
    power = (data.y.abs().square() - 1).mean(0)
    return (data.plane.radial_mean(power) / data.plane.radial_mean(data.ctf.square().mean(0))).clamp(min=1e-3)


def signal_nats(data: Observations, radius: float) -> float:
    """Estimate the mean log-likelihood gain per image in nats, within ``radius`` (integer frequencies).

    The gain is the log-likelihood of an image under the true volume at the true pose, minus its log-likelihood without a
    molecule.
    """
    band = data.within(radius)
    return 0.5 * float(((band.y.abs().square() - 1) * band.weight).sum(-1).mean())


STRONG_RADIUS = 0.1  # cycles per pixel, within which ice crystals are strong
STRONG = 6.0  # an image is strong if its power exceeds the median by more than this number of standard deviations
LEAST_SAMPLE = 20  # fewer values do not determine a standard deviation
NORMAL_SPREAD = 1.4826  # standard deviation of a normal distribution in units of its median absolute deviation


def far_above(values: Float[Tensor, " n"], deviations: float) -> Bool[Tensor, " n"]:
    """Mark the values that exceed the median by more than ``deviations`` standard deviations.

    The median absolute deviation gives the standard deviation. No value is marked if there are less than
    :data:`LEAST_SAMPLE`.
    """
    excess = values - values.median()
    return (excess > deviations * NORMAL_SPREAD * excess.abs().median()) & (len(values) >= LEAST_SAMPLE)


def low_power(data: Observations) -> Float[Tensor, " n"]:
    """Compute the power of each image within :data:`STRONG_RADIUS`, in units of the noise power."""
    band = data.within(STRONG_RADIUS * data.plane.box)
    return (band.y.abs().square() * band.weight).sum(1)


def strong_images(power: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Mark images that are far stronger than the others by their :func:`low_power`, such as images of ice crystals.

    A few of these images would dominate a fit.
    """
    return far_above(power, STRONG)


def without_empty(usable: Bool[Tensor, " n"], gain: Float[Tensor, " n"], least_share: float) -> Bool[Tensor, " n"]:
    """Unmark images without a positive log-likelihood ``gain``, if their share of all images is at least ``least_share``."""
    empty = gain <= 0
    return usable & ~empty if empty.float().mean() >= least_share else usable


TOLERANCE = 1e-5  # relative difference up to which the powers from different kinds of device count as equal
PART = 1000  # images whose power is summed at once, because a whole stack in double precision would need twice its memory


@dataclass(frozen=True)
class StackFingerprint:
    """Numbers that identify a stack. A power is the mean square of the coefficients, rounded to six decimals.

    - ``particles``: number of particles.
    - ``power``: power of all images.
    - ``power_first``, ``power_last``: power of the first and of the last image.
    - ``power_ctf``: power of the CTFs.
    """

    particles: int
    power: float
    power_first: float
    power_last: float
    power_ctf: float

    @classmethod
    def of(cls, data: Observations) -> StackFingerprint:
        """Compute the fingerprint of a stack."""
        powers = (_mean_power(values) for values in (data.y, data.y[:1], data.y[-1:], data.ctf))
        return cls(len(data), *powers)

    def matches(self, stack: StackFingerprint) -> bool:
        """Return whether both fingerprints describe the same stack, up to the rounding errors of different devices."""
        powers = zip(astuple(self)[1:], astuple(stack)[1:], strict=True)
        return self.particles == stack.particles and all(isclose(a, b, rel_tol=TOLERANCE) for a, b in powers)

    def to_json(self) -> dict[str, int | float]:
        """Return the fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object, path: Path) -> StackFingerprint:
        """Build a fingerprint from the output of :meth:`to_json`; ``path`` names its file in the error message.

        Raises:
            HetacumnError: the content is not a fingerprint, as in files of older versions.
        """
        if not isinstance(content, dict) or set(content) != {field.name for field in fields(cls)}:
            raise HetacumnError(
                f"{path}: made by another version, without a fingerprint of its stack; delete it to "
                "begin anew, or choose another folder"
            )
        return cls(**content)

    def __str__(self) -> str:
        return (
            f"{self.particles} particles of power {self.power:.6f} ({self.power_first:.6f} to {self.power_last:.6f}), "
            f"CTFs of power {self.power_ctf:.6f}"
        )


def _mean_power(values: Inexact[Tensor, "n m"]) -> float:
    """Compute the mean square of coefficients in double precision."""
    total = float(sum(part.abs().square().double().sum() for part in values.split(PART)))
    return round(total / values.numel(), 6)
