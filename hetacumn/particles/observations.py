"""Particles as the likelihood sees them: packed Fourier coefficients with CTFs; and the fingerprint of such a stack."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields
from math import isclose
from pathlib import Path

import torch
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.compute.batches import batch_slices
from hetacumn.particles.metadata import Particles
from hetacumn.physics.half_plane import HalfPlane


@dataclass(frozen=True)
class Observations:
    """``y``: ``(n, m)`` complex coefficients of images with unit noise; ``ctf``: ``(n, m)``; their half-plane.

    The coefficients are ordered by radius: ``within(radius)`` is a view of a coarser stack.
    """

    y: Tensor
    ctf: Tensor
    plane: HalfPlane

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows) -> Observations:
        return Observations(self.y[rows], self.ctf[rows], self.plane)

    def within(self, radius: float) -> Observations:
        """Only the coefficients within ``radius`` (integer frequencies)."""
        m = self.plane.count(radius)
        return Observations(self.y[:, :m], self.ctf[:, :m], self.plane)

    def repeated(self, times: int) -> Observations:
        """The whole stack several times over, one after the other."""
        return self if times == 1 else Observations(self.y.repeat(times, 1), self.ctf.repeat(times, 1), self.plane)

    def quarter_turned(self) -> Observations:
        """The images turned by 90° in their plane, from x to y, and their CTFs with them."""
        return Observations(self.plane.quarter_turned(self.y), self.plane.quarter_turned(self.ctf), self.plane)

    @property
    def k(self) -> Tensor:
        """Integer frequencies ``(m, 2)``."""
        return self.plane.k[: self.y.shape[1]]

    @property
    def weight(self) -> Tensor:
        """``(m,)``: how many coefficients of the full plane each stands for."""
        return self.plane.weight[: self.y.shape[1]]


def observe(particles: Particles, device: torch.device | str = "cpu", chunk: int = 4096) -> Observations:
    """Pack a stack of normalised particles, a chunk at a time.

    Where the noise is not white, both the coefficients and their CTF are divided by the amplitude of the noise: this
    whitens the noise and leaves the molecule that the CTF multiplies unchanged.
    """
    plane = HalfPlane(particles.box, device=device)
    frequencies = plane.k / particles.box
    amplitude = None
    if particles.metadata.noise is not None:
        amplitude = particles.metadata.noise.to(device)[plane.k.norm(dim=1).round().long()].sqrt()
    y = torch.empty(len(particles), len(plane), dtype=torch.complex64, device=device)
    ctf = torch.empty(len(particles), len(plane), device=device)
    for rows in batch_slices(len(particles), chunk):
        y[rows] = plane.pack(particles.images[rows].to(device, non_blocking=True))
        ctf[rows] = particles.metadata.optics[rows].to(device).ctf(frequencies)
    if amplitude is not None:
        y, ctf = y.div_(amplitude), ctf.div_(amplitude)
    return Observations(y, ctf, plane)


def signal_power(data: Observations) -> Tensor:
    """Estimate the power of the particles before the CTF: ``(m,)``, averaged over shells, in units of the noise, positive."""
    power = (data.y.abs().square() - 1).mean(0)
    return (data.plane.radial_mean(power) / data.plane.radial_mean(data.ctf.square().mean(0))).clamp(min=1e-3)


def signal_nats(data: Observations, radius: float) -> float:
    """Estimate by how much the true volume at the true pose raises an image's log-likelihood over no molecule, on average,
    in nats, within ``radius`` (integer frequencies).
    """
    band = data.within(radius)
    return 0.5 * float(((band.y.abs().square() - 1) * band.weight).sum(-1).mean())


TOLERANCE = 1e-5  # relative, to which two kinds of device agree in a power
PART = 1000  # images whose power is summed at a time: in double precision a whole stack would take twice its memory


@dataclass(frozen=True)
class StackFingerprint:
    """The number of particles, and mean powers: of all images, of the first and the last image, and of the CTFs.

    Powers are rounded to six decimals.
    """

    particles: int
    power: float
    power_first: float
    power_last: float
    power_ctf: float

    @classmethod
    def of(cls, data: Observations) -> StackFingerprint:
        """Measure a packed stack."""
        powers = (_mean_power(values) for values in (data.y, data.y[:1], data.y[-1:], data.ctf))
        return cls(len(data), *powers)

    def matches(self, other: StackFingerprint) -> bool:
        """Tell whether both are of one stack: equal, but for the rounding errors of two devices."""
        powers = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return self.particles == other.particles and all(isclose(a, b, rel_tol=TOLERANCE) for a, b in powers)

    def to_json(self) -> dict[str, int | float]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object, path: Path) -> StackFingerprint:
        """Rebuild a fingerprint from the file ``path``, where :meth:`to_json` was written.

        Raises:
            HetacumnError: the content is no fingerprint, as in files of older versions.
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


def _mean_power(values: Tensor) -> float:
    total = float(sum(part.abs().square().double().sum() for part in values.split(PART)))
    return round(total / values.numel(), 6)
