"""The contrast transfer function of each particle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Rows = slice | Tensor | np.ndarray | list[int]  # an index of particles that keeps the dimension of particles


@dataclass(frozen=True)
class Optics:
    """The CTF parameters of each particle, and the pixel size of all particles, with the definitions of RELION's columns.

    - ``defocus_u_A``, ``defocus_v_A``: defocus along the two axes of astigmatism, in Å; positive for underfocus.
    - ``astigmatism_deg``: angle from the x axis to the direction of ``defocus_u_A``, in degrees.
    - ``voltage_kv``: acceleration voltage in kV.
    - ``cs_mm``: spherical aberration in mm.
    - ``amplitude_contrast``: fraction ``w`` of the amplitude contrast, from 0 to 1.
    - ``phase_shift_deg``: phase shift (of a phase plate) in degrees.
    - ``pixel_A``: pixel size of the images in Å.
    """

    defocus_u_A: Float[Tensor, " n"]
    defocus_v_A: Float[Tensor, " n"]
    astigmatism_deg: Float[Tensor, " n"]
    voltage_kv: Float[Tensor, " n"]
    cs_mm: Float[Tensor, " n"]
    amplitude_contrast: Float[Tensor, " n"]
    phase_shift_deg: Float[Tensor, " n"]
    pixel_A: float

    def __len__(self) -> int:
        return len(self.defocus_u_A)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Optics:
        columns = {f.name: function(getattr(self, f.name)) for f in fields(self) if f.name != "pixel_A"}
        return Optics(**columns, pixel_A=self.pixel_A)

    def __getitem__(self, rows: Rows) -> Optics:
        return self._map(lambda column: column[rows])

    def to(self, device: torch.device | str) -> Optics:
        """Copy to another device."""
        return self._map(lambda column: column.to(device))

    def ctf(self, frequencies: Float[Tensor, "m 2"]) -> Float[Tensor, "n m"]:
        """Evaluate the CTF of each particle at frequencies (x, y) in cycles per pixel.

        The sign is RELION's: ``sin(χ + arcsin w)`` with ``χ = πλ Δf k² - π/2 Cs λ³ k⁴ + phase shift``. The CTF is ``+w`` (the
        amplitude contrast) at the origin and positive at low frequency for underfocus, so that bright protein stays bright.
        The values were checked against ``relion_project --ctf`` of RELION 3.1.3.
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


def frequency_grid(box: int, device: torch.device | str = "cpu") -> Float[Tensor, "{box*box} 2"]:
    """Return the frequencies (x, y) of a centred transform in cycles per pixel, row by row."""
    axis = (torch.arange(box, device=device) - box // 2) / box
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([kx, ky], dim=-1).reshape(-1, 2)
