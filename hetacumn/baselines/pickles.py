"""Pickle files of arrays: the CTF parameters and poses that cryoDRGN and RECOVAR read, and the arrays that they write."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.particles.prepared_stack import PreparedStack

CTF, POSES = "ctf.pkl", "poses.pkl"
ARRAY_PARTS = {  # the names that a pickled NumPy array refers to
    ("numpy", "ndarray"), ("numpy", "dtype"),
    *((f"numpy.{core}.{module}", name) for core in ("core", "_core")
      for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))),
}  # fmt: skip


def write_ctf_and_poses(data: PreparedStack, folder: Path) -> None:
    """Write the CTF parameters and the poses of a stack to ``ctf.pkl`` and ``poses.pkl`` in ``folder``, as cryoDRGN does.

    A row of the first file contains the box, the pixel size (Å), the defoci (Å), the angle of astigmatism (degrees), the
    voltage (kV), the spherical aberration (mm), the amplitude contrast and the phase shift (degrees). The second file contains
    the rotation matrices, and the translations in fractions of the box. A translation has the opposite sign of a shift. All
    numbers are in single precision, which cryoDRGN requires.

    Raises:
        HetacumnError: the particle table has no poses.
    """
    if data.metadata.poses is None:
        raise HetacumnError(f"{data.star}: no poses; expected rlnAngleRot, rlnAngleTilt, rlnAnglePsi and the origins")
    optics, poses = data.metadata.optics, data.metadata.poses
    fields = ("defocus_u_A", "defocus_v_A", "astigmatism_deg", "voltage_kv", "cs_mm", "amplitude_contrast", "phase_shift_deg")
    sizes = (np.full(len(data), size, dtype=np.float32) for size in (data.box, data.pixel_A))
    ctf = np.stack([*sizes, *(getattr(optics, name).float().numpy() for name in fields)], 1)
    translations = -poses.shifts_px.float().numpy() / data.box
    for name, content in ((CTF, ctf), (POSES, (poses.rotations.float().numpy(), translations))):
        with atomic_path(folder / name) as path:
            path.write_bytes(pickle.dumps(content))


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for NumPy arrays only, because other pickles can run code."""

    def find_class(self, module: str, name: str) -> Any:  # a class or a function, as in the base class
        """Return the named class or function if a pickled array needs it; raise :class:`HetacumnError` for other names."""
        if (module, name) not in ARRAY_PARTS:
            raise HetacumnError(f"holds {module}.{name}; expected only NumPy arrays")
        return super().find_class(module, name)


def checked_latents(array: Any, path: Path, count: int, dimensions: int) -> Float[Tensor, "{count} {dimensions}"]:
    """Return the latents that a program wrote to ``path``.

    Raises:
        HetacumnError: the array has another shape, or holds a value that is not finite.
    """
    latents = np.asarray(array, dtype=np.float32)
    if latents.shape != (count, dimensions) or not np.isfinite(latents).all():
        raise HetacumnError(f"{path}: latents {latents.shape}; expected {dimensions} numbers for each of {count} images")
    return torch.from_numpy(latents)


def load_arrays(path: Path) -> Any:
    """Read the first object of a pickle file: an array, or a tuple or dictionary of arrays.

    Raises:
        HetacumnError: the file cannot be read, or contains other objects.
    """
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file).load()
    except (HetacumnError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise HetacumnError(f"{path}: {error}") from error
