"""Particles as the likelihood sees them: packed Fourier coefficients, each with its CTF."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hetacumn.half_plane import HalfPlane
from hetacumn.particles import Particles


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

    Where their noise is not white, both the coefficients and their CTF are divided by its amplitude: the noise is white
    then, and what the CTF is multiplied by is the same molecule.
    """
    plane = HalfPlane(particles.box, device=device)
    frequencies = plane.k / particles.box
    amplitude = None
    if particles.noise is not None:
        amplitude = particles.noise.to(device)[plane.k.norm(dim=1).round().long()].sqrt()
    y = torch.empty(len(particles), len(plane), dtype=torch.complex64, device=device)
    ctf = torch.empty(len(particles), len(plane), device=device)
    for start in range(0, len(particles), chunk):
        rows = slice(start, start + chunk)
        y[rows] = plane.pack(particles.images[rows].to(device, non_blocking=True))
        ctf[rows] = particles.optics[rows].to(device).ctf(frequencies)
    if amplitude is not None:
        y, ctf = y.div_(amplitude), ctf.div_(amplitude)
    return Observations(y, ctf, plane)


def signal_power(data: Observations) -> Tensor:
    """Power of the particles before the CTF, averaged over shells and in units of the noise: ``(m,)``, positive."""
    power = (data.y.abs().square() - 1).mean(0)
    return (data.plane.radial_mean(power) / data.plane.radial_mean(data.ctf.square().mean(0))).clamp(min=1e-3)


def signal_nats(data: Observations, radius: float) -> float:
    """By how much the true volume at the true pose raises an image's log-likelihood over none, on average, within
    ``radius`` (integer frequencies)."""
    band = data.within(radius)
    return 0.5 * float(((band.y.abs().square() - 1) * band.weight).sum(-1).mean())


def stack_identity(data: Observations) -> str:
    """What tells one stack from another: how many particles; the mean power of all, of the first and of the last image, and of
    the CTFs."""
    def power_of(values: Tensor) -> float:  # a part at a time: in double precision all of it would be twice as large
        return float(sum(part.abs().square().double().sum() for part in values.split(1000))) / values.numel()

    power, first, last, ctf = (power_of(of) for of in (data.y, data.y[:1], data.y[-1:], data.ctf))
    return f"{len(data)} particles of power {power:.6f} ({first:.6f} to {last:.6f}), of CTFs {ctf:.6f}"


def same_stack(one: str, other: str) -> bool:
    """Whether two of :func:`stack_identity` are of one stack: in numbers, to what two devices agree in."""
    found, wanted = ([float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)] for text in (one, other))
    return len(found) == len(wanted) == 5 and found[0] == wanted[0] and np.allclose(found, wanted, rtol=1e-5, atol=0)
