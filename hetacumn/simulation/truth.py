"""The truth of a simulated stack: class, pose and conformation of each particle."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path


@dataclass(frozen=True)
class Truth:
    """The true values of each particle; ``truth.npz`` on disk.

    - ``rotations``: rotations that map object to view.
    - ``shifts_A``: shifts (x, y) that move the image, in Å.
    - ``classes``: class of each particle, counted from 0.
    - ``coordinate``: progress in [0, 1] of each moving part of a continuous motion; for discrete states, the class.
    - ``junk``: 0 for an image of a particle, otherwise the number of the kind in :data:`~hetacumn.simulation.imaging.JUNK`.
    - ``clean``: the first images without noise, in the scale of the file and with bright protein.
    - ``snr``: the SNR of the stack.
    - ``noise_std``: standard deviation of the noise in the units of the volumes. The noise in the file has unit variance:
      image = clean projection / noise_std + noise.
    """

    rotations: Float[Tensor, "n 3 3"]
    shifts_A: Float[Tensor, "n 2"]
    classes: Int[Tensor, " n"]
    coordinate: Float[Tensor, " n *parts"]
    junk: Int[Tensor, " n"]
    clean: Float[Tensor, "examples box box"]
    snr: float
    noise_std: float

    @property
    def particle_rows(self) -> Int[np.ndarray, " m"]:
        """Rows of the images that contain a particle."""
        return (self.junk == 0).nonzero().squeeze(1).numpy()

    def __getitem__(self, rows: Int[np.ndarray, " m"]) -> Truth:
        """Select particles by their rows; ``clean`` still contains the first images of the whole stack."""
        columns = {name: getattr(self, name)[rows] for name in ("rotations", "shifts_A", "classes", "coordinate", "junk")}
        return replace(self, **columns)

    def write(self, path: Path | str) -> None:
        """Save as .npz, atomically."""
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]  # numpy's stub applies allow_pickle's type to every keyword

    @classmethod
    def read(cls, path: Path | str) -> Truth:
        """Load a file that :meth:`write` saved. Raises :class:`HetacumnError` if the file is missing."""
        if not Path(path).is_file():
            raise HetacumnError(f"{path}: no such file; expected the truth of a simulated stack")
        with np.load(path) as stored:
            names = ("rotations", "shifts_A", "classes", "coordinate", "clean")
            tensors = {name: torch.from_numpy(stored[name]) for name in names}
            none = np.zeros(len(stored["classes"]), int)  # files of earlier versions have no junk
            tensors["junk"] = torch.from_numpy(stored["junk"] if "junk" in stored else none)
            return cls(**tensors, snr=float(stored["snr"]), noise_std=float(stored["noise_std"]))
