"""The contrast transfer function and the aberrations of each particle.

Aberrations follow RELION 3.1. The transform of an image is ``Y(k) = C(k) exp(iφ(k)) X(M k)`` plus noise: the odd Zernike
polynomials and the beam tilt make the phase φ, the even polynomials change the phase χ of the CTF ``C = sin χ``, and M is the
matrix of anisotropic magnification. The CTF also includes a scale factor and a B-factor envelope of each particle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import factorial
from typing import Any

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
    - ``odd_rad``, ``even_rad``: coefficients of the odd and even Zernike polynomials in radians, in RELION's order, for
      frequencies in 1/Å; ``odd_rad`` includes the beam tilt. None without these aberrations.
    - ``magnification``: matrix of anisotropic magnification; None for the identity.
    - ``scale``, ``b_factor_A2``: scale factor, and B-factor (Å²), by which the CTF is multiplied: ``scale exp(-B k²/4)``. None
      for 1 and 0.
    """

    defocus_u_A: Float[Tensor, " n"]
    defocus_v_A: Float[Tensor, " n"]
    astigmatism_deg: Float[Tensor, " n"]
    voltage_kv: Float[Tensor, " n"]
    cs_mm: Float[Tensor, " n"]
    amplitude_contrast: Float[Tensor, " n"]
    phase_shift_deg: Float[Tensor, " n"]
    pixel_A: float
    odd_rad: Float[Tensor, "n odd"] | None = None
    even_rad: Float[Tensor, "n even"] | None = None
    magnification: Float[Tensor, "n 2 2"] | None = None
    scale: Float[Tensor, " n"] | None = None
    b_factor_A2: Float[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.defocus_u_A)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Optics:
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: function(value) for name, value in columns.items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def __getitem__(self, rows: Rows) -> Optics:
        return self._map(lambda column: column[rows])

    def to(self, device: torch.device | str) -> Optics:
        """Copy to another device."""
        return self._map(lambda column: column.to(device))

    def ctf(self, frequencies: Float[Tensor, "m 2"]) -> Float[Tensor, "n m"]:
        """Evaluate the CTF of each particle at frequencies (x, y) in cycles per pixel.

        The sign is RELION's: ``sin(χ + arcsin w)`` with ``χ = πλ Δf k² - π/2 Cs λ³ k⁴ + phase shift``. The CTF is ``+w`` (the
        amplitude contrast) at the origin and positive at low frequency for underfocus, so that bright protein stays bright.
        The values were checked against ``relion_project --ctf`` of RELION 3.1.3. The result includes
        ``scale`` and ``b_factor_A2``.
        """
        wavelength = wavelength_A(self.voltage_kv)[:, None]
        per_A = frequencies / self.pixel_A
        if self.magnification is not None:
            per_A = per_A @ self.magnification.mT  # (n, m, 2)
        kx, ky = per_A.unbind(-1)
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
        if self.even_rad is not None:
            chi = chi - self.even_rad @ zernike_even(frequencies / self.pixel_A, self.even_rad.shape[1])
        ctf = torch.sin(chi + torch.asin(self.amplitude_contrast)[:, None])
        if self.b_factor_A2 is not None:
            ctf = ctf * torch.exp(-self.b_factor_A2[:, None] * square / 4)
        return ctf if self.scale is None else ctf * self.scale[:, None]

    def phase(self, frequencies: Float[Tensor, "m 2"]) -> Float[Tensor, "n m"] | None:
        """Evaluate the phase φ in radians of the odd aberrations of each particle; None without odd aberrations.

        ``frequencies`` (x, y) are in cycles per pixel. Aberrations multiply the transform of an image by ``exp(iφ)``.
        """
        return None if self.odd_rad is None else self.odd_rad @ zernike_odd(frequencies / self.pixel_A, self.odd_rad.shape[1])


def wavelength_A(voltage_kv: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Compute the wavelength of electrons in Å from the acceleration voltage in kV."""
    volts = voltage_kv.double() * 1e3
    return (12.2643247 / (volts + 0.978466e-6 * volts.square()).sqrt()).float()


def tilt_to_odd(
    tilt_mrad: Float[Tensor, "n 2"], voltage_kv: Float[Tensor, " n"], cs_mm: Float[Tensor, " n"]
) -> Float[Tensor, "n 6"]:
    """Convert the beam tilt (x, y) in mrad to coefficients of the odd Zernike polynomials.

    The phase of a beam tilt ``t`` is ``-2π Cs λ² k² (t·k)``, as in RELION. ``k² kx`` is ``(Z_3^1 + 2 Z_1^1) / 3``.
    """
    coma = -2 * torch.pi * 1e-3 * tilt_mrad * (cs_mm * 1e7 * wavelength_A(voltage_kv).square())[:, None] / 3
    x, y = coma.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([2 * y, 2 * x, zero, y, x, zero], dim=1)


def zernike_odd(per_A: Float[Tensor, "m 2"], count: int) -> Float[Tensor, "{count} m"]:
    """Evaluate the first odd Zernike polynomials at frequencies (x, y) in 1/Å, in RELION's order.

    The order of the pairs (m, n) is (-1, 1), (1, 1), (-3, 3), (-1, 3), (1, 3), (3, 3), (-5, 5), …
    """
    orders = [(m, n) for n in range(1, 2 * count, 2) for m in range(-n, n + 1, 2)]
    return torch.stack([_zernike(m, n, per_A) for m, n in orders[:count]])


def zernike_even(per_A: Float[Tensor, "m 2"], count: int) -> Float[Tensor, "{count} m"]:
    """Evaluate the first even Zernike polynomials at frequencies (x, y) in 1/Å, in RELION's order.

    The order of the pairs (m, n) is (0, 0), (-2, 2), (0, 2), (2, 2), (-4, 4), …
    """
    orders = [(m, n) for n in range(0, 2 * count, 2) for m in range(-n, n + 1, 2)]
    return torch.stack([_zernike(m, n, per_A) for m, n in orders[:count]])


def _zernike(m: int, n: int, per_A: Float[Tensor, "m 2"]) -> Float[Tensor, " m"]:
    """Evaluate the Zernike polynomial ``R_n^|m|(|k|)`` times cos(m angle) for m >= 0, or sin(|m| angle) for m < 0."""
    radius, angle, most = per_A.norm(dim=-1), torch.atan2(per_A[:, 1], per_A[:, 0]), abs(m)
    radial = torch.zeros_like(radius)
    for k in range((n - most) // 2 + 1):
        below = factorial(k) * factorial((n + most) // 2 - k) * factorial((n - most) // 2 - k)
        radial = radial + (-1) ** k * (factorial(n - k) // below) * radius ** (n - 2 * k)
    return radial * (torch.cos(m * angle) if m >= 0 else torch.sin(most * angle))


def frequency_grid(box: int, device: torch.device | str = "cpu") -> Float[Tensor, "{box*box} 2"]:
    """Return the frequencies (x, y) of a centred transform in cycles per pixel, row by row."""
    axis = (torch.arange(box, device=device) - box // 2) / box
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([kx, ky], dim=-1).reshape(-1, 2)
