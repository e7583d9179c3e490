"""The contrast transfer function of each particle."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Optics:
    """What formed each image: one value a particle, tensors ``(n,)``; the pixel size is common to all.

    Defocus is positive for underfocus. ``astigmatism_deg`` is the angle from x of the direction of
    ``defocus_u_A``. Same definitions as RELION's columns.
    """

    defocus_u_A: Tensor
    defocus_v_A: Tensor
    astigmatism_deg: Tensor
    voltage_kv: Tensor
    cs_mm: Tensor
    amplitude_contrast: Tensor
    phase_shift_deg: Tensor
    pixel_A: float

    def __len__(self) -> int:
        return len(self.defocus_u_A)

    def _map(self, function) -> Optics:
        arrays = [f.name for f in fields(self) if f.name != "pixel_A"]
        return replace(self, **{name: function(getattr(self, name)) for name in arrays})

    def __getitem__(self, rows) -> Optics:
        return self._map(lambda column: column[rows])

    def to(self, device: torch.device | str) -> Optics:
        """The same on another device."""
        return self._map(lambda column: column.to(device))

    def ctf(self, frequencies: Tensor) -> Tensor:
        """The CTF ``(n, m)`` at ``(m, 2)`` frequencies (x, y) in cycles per pixel.

        RELION's sign: ``sin(χ + arcsin w)`` with ``χ = πλ Δf k² - π/2 Cs λ³ k⁴ + phase shift``, which is the
        amplitude contrast ``+w`` at the origin and positive at low frequency under focus, so that a protein
        that is bright stays bright (checked against ``relion_project --ctf``, RELION 3.1.3).
        """
        volts = self.voltage_kv.double() * 1e3
        wavelength = (12.2643247 / (volts + 0.978466e-6 * volts.square()).sqrt()).float()[:, None]  # Å
        kx, ky = (frequencies / self.pixel_A).unbind(-1)
        square = kx.square() + ky.square()
        azimuth = torch.atan2(ky, kx) - torch.deg2rad(self.astigmatism_deg)[:, None]
        mean = 0.5 * (self.defocus_u_A + self.defocus_v_A)[:, None]
        half = 0.5 * (self.defocus_u_A - self.defocus_v_A)[:, None]
        defocus = mean + half * torch.cos(2 * azimuth)
        chi = (
            torch.pi * wavelength * defocus * square
            - 0.5 * torch.pi * (self.cs_mm * 1e7)[:, None] * wavelength**3 * square.square()
            + torch.deg2rad(self.phase_shift_deg)[:, None]
        )
        return torch.sin(chi + torch.asin(self.amplitude_contrast)[:, None])


def frequency_grid(box: int, device: torch.device | str = "cpu") -> Tensor:
    """Frequencies ``(box * box, 2)`` (x, y) in cycles per pixel of a centred transform, row by row."""
    axis = (torch.arange(box, device=device) - box // 2) / box
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([kx, ky], dim=-1).reshape(-1, 2)
