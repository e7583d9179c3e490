"""The truth of a simulated stack: what the simulation knows of each particle."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetacumn.errors import HetacumnError
from hetacumn.project import atomic_path


@dataclass(frozen=True)
class Truth:
    """What the simulation knows of each particle; ``truth.npz`` on disk.

    ``rotations`` ``(n, 3, 3)``; ``shifts_A`` ``(n, 2)`` (x, y), by which images are moved; ``classes``
    ``(n,)`` from 0; ``coordinate`` ``(n, d)`` of a continuous motion, how far each part has gone, else ``(n,)`` the class;
    ``clean`` the first images without noise, in the file's scale with protein bright. The file's noise has unit variance;
    ``noise_std`` is that noise in the units of the volumes: image = clean projection / noise_std + noise.
    """

    rotations: Tensor
    shifts_A: Tensor
    classes: Tensor
    coordinate: Tensor
    clean: Tensor
    snr: float
    noise_std: float

    def write(self, path: Path | str) -> None:
        """Save as .npz, atomically."""
        with atomic_path(path) as temporary:
            np.savez(temporary, **{f.name: np.asarray(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def read(cls, path: Path | str) -> Truth:
        """Load what :meth:`write` saved."""
        if not Path(path).is_file():
            raise HetacumnError(f"{path}: no such file; expected the truth of a simulated stack")
        with np.load(path) as stored:
            values = {f.name: stored[f.name] for f in fields(cls)}
        return cls(**{name: float(v) if v.ndim == 0 else torch.from_numpy(v) for name, v in values.items()})
