"""Resolution and sharpening of maps from two half maps.

- *Resolution*: FSC of the masked half maps, corrected for the mask by phase randomisation (Chen et al. 2013).
- *Sharpening*: exp(-B k² / 4) with B from the Guinier plot (Rosenthal & Henderson 2003).

Volumes are ``(z, y, x)`` with an even box; a curve has one value for each of the ``box // 2`` shells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.physics.fourier import fft3c, ifft3c, shells
from hetacumn.physics.fsc import HALF_MAP_FSC, first_shell_below, fsc, resolution_A, shell_frequencies

RANDOMISED_BELOW = 0.8  # phases are randomised from the shell on in which the unmasked FSC falls below this value
SOFT_SHELLS = 3  # width of the edge of the low-pass filter at the resolution
GUINIER_A = (10.0, 6.0)  # a Guinier fit starts at 10 Å, and needs a resolution of 6 Å; the fold shapes lower frequencies


@dataclass(frozen=True)
class ShellCurves:
    """The FSC curves of two half maps.

    - ``unmasked``, ``masked``: FSC of the half maps without and with mask.
    - ``randomised``: FSC of the masked half maps with random phases at high resolution, an effect of the mask alone.
    - ``corrected``: masked FSC, corrected for the effect of the mask; the resolution is read from this curve.
    """

    unmasked: Float[Tensor, " shells"]
    masked: Float[Tensor, " shells"]
    randomised: Float[Tensor, " shells"]
    corrected: Float[Tensor, " shells"]

    def resolution_A(self, voxel_A: float) -> float:
        """Return the resolution at which the corrected FSC first falls below 0.143."""
        return resolution_A(self.corrected, voxel_A, HALF_MAP_FSC)

    def signal_to_noise(self, halves: int = 1) -> Float[Tensor, " shells"]:
        """Return the ratio of signal to noise power of one half map, or of the mean of both (``halves=2``).

        The ratio is zero from the shell on in which the corrected FSC first falls below 0.143.
        """
        last = first_shell_below(self.corrected, HALF_MAP_FSC)
        curve = self.corrected.clamp(0, 0.9999)
        curve = torch.where(torch.arange(len(curve), device=curve.device) < last, curve, 0)
        return halves * curve / (1 - curve)


def compare_halves(
    first: Float[Tensor, "box box box"], second: Float[Tensor, "box box box"], mask: Float[Tensor, "box box box"], seed: int = 0
) -> ShellCurves:
    """Compute the FSC curves of two half maps and a soft mask; ``seed`` is the seed of the random phases."""
    unmasked, masked = fsc(first, second), fsc(first * mask, second * mask)
    start = first_shell_below(unmasked, RANDOMISED_BELOW)
    generator = torch.Generator().manual_seed(seed)
    without = [_randomise_phases(half, start, generator) * mask for half in (first, second)]
    randomised = fsc(*without)
    corrected = torch.where(randomised < masked, (masked - randomised) / (1 - randomised).clamp(min=1e-6), 0)
    shell = torch.arange(len(masked), device=masked.device)
    return ShellCurves(unmasked, masked, randomised, torch.where(shell < start + 2, masked, corrected))


def _randomise_phases(volume: Float[Tensor, "box box box"], start: int, generator: torch.Generator) -> Tensor:
    """Replace the phases of the transform from shell ``start`` on by those of white noise."""
    transform = fft3c(volume)
    noise = fft3c(torch.randn(volume.shape, generator=generator).to(volume))
    random = transform.abs() * noise / noise.abs().clamp(min=1e-12)
    return ifft3c(torch.where(shells(volume.shape[-1], 3, volume.device) >= start, random, transform))


def filter_shells(volume: Float[Tensor, "box box box"], gains: Float[Tensor, " shells"]) -> Float[Tensor, "box box box"]:
    """Multiply the transform of a volume by a function of the radius, given at each shell and 0 beyond the last shell."""
    shell = shells(volume.shape[-1], 3, volume.device)
    padded = torch.nn.functional.pad(gains, (0, 1))
    return ifft3c(fft3c(volume) * padded[shell.clamp(max=len(gains))])


def guinier_b_factor(volume: Float[Tensor, "box box box"], voxel_A: float, resolution_A: float) -> float:
    """Estimate the B-factor of a map in Å² from the decay of its amplitudes between 10 Å and the resolution.

    The amplitude at the frequency k is proportional to exp(-B k² / 4). The function returns 0 if the resolution is coarser than
    6 Å, or if the amplitudes increase.
    """
    if resolution_A > GUINIER_A[1]:
        return 0.0
    box = volume.shape[-1]
    shell, amplitude = shells(box, 3, volume.device).flatten(), fft3c(volume).abs().flatten()
    inner = shell < box // 2
    mean = torch.bincount(shell[inner], amplitude[inner]) / torch.bincount(shell[inner])
    frequency = shell_frequencies(box, voxel_A)
    fitted = ((frequency >= 1 / GUINIER_A[0]) & (frequency <= 1 / resolution_A)).numpy()
    slope, _ = np.polyfit(frequency.square().numpy()[fitted], mean.log().cpu().numpy()[fitted], 1)
    return max(0.0, -4 * float(slope))


def sharpened(
    volume: Float[Tensor, "box box box"], voxel_A: float, b_factor_A2: float, resolution_A: float
) -> Float[Tensor, "box box box"]:
    """Undo the decay exp(-B k² / 4) of the amplitudes of a map, with B in Å², up to the resolution.

    Beyond the resolution, where sharpening would amplify noise, the transform falls to 0 over :data:`SOFT_SHELLS` shells.
    """
    box = volume.shape[-1]
    last = box * voxel_A / resolution_A
    shell = torch.arange(box // 2, device=volume.device)
    band = 0.5 + 0.5 * torch.cos(torch.pi * ((shell - last) / SOFT_SHELLS).clamp(0, 1))
    frequency = shell.clamp(max=last) / (box * voxel_A)
    return filter_shells(volume, band * torch.exp(b_factor_A2 / 4 * frequency.square()))
