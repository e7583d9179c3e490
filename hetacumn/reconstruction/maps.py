"""Maps on disk: the files of a reconstruction.

The folder of a reconstruction contains

- ``volumes/G_half1_unfil.mrc``, ``volumes/G_half2_unfil.mrc``: half maps of each group ``G`` (``class_1``, ``class_2``, … or
  ``selection``), with the names that RELION's postprocessing expects;
- ``volumes/G.mrc``, ``volumes/G_mask.mrc``: filtered and sharpened map of all images, and its soft mask;
- ``volumes/G_masked.mrc``: the map times the mask, if a mask was given;
- ``volumes/G_locres.mrc``: local resolution in Å, if it was requested;
- ``maps.csv``: numbers of the maps, see :class:`GroupResult`; ``fsc.csv``: FSC curves;
- ``predictions.star``, ``latents.csv``: the predictions with refined poses and half sets (rlnRandomSubset).

``reconstruction.json`` records the input as a digest of all arrays and settings. A reconstruction continues only if its input
is the same, and a finished one is returned only if its files are complete.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import make_folder, write_json
from hetacumn.common.provenance import provenance
from hetacumn.common.run_files import read_json
from hetacumn.io.mrc import read_mrc
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.source_images import SourceImages

MAPS = "maps"  # default folder of a reconstruction, in the folder of the predictions
TABLE = "maps.csv"
NOTE = "reconstruction.json"
VOLUMES = "volumes"  # folder of the maps, in the folder of the reconstruction
UNDER_WAY = "under_way"  # folder of the poses and numbers of finished parts, until all parts are finished


@dataclass(frozen=True)
class GroupResult:
    """The numbers of the maps of one group.

    - ``group``, ``particles``: name of the group and number of its particles.
    - ``resolution_A``: resolution in Å at which the corrected FSC of the half maps falls below 0.143.
    - ``b_factor_A2``: B-factor in Å² that was corrected in the map; 0 if it was not estimated.
    - ``rotation_change_deg``, ``shift_change_A``: median change of the poses in the refinement.
    """

    group: str
    particles: int
    resolution_A: float
    b_factor_A2: float
    rotation_change_deg: float
    shift_change_A: float


@dataclass(frozen=True)
class Reconstruction:
    """A finished reconstruction in ``folder``.

    - ``maps``: filtered and sharpened maps by group.
    - ``masks``: soft masks by group.
    - ``results``: numbers of each group.
    - ``curves``: ``fsc.csv``: columns group, frequency_per_A, unmasked, masked, randomised and corrected.
    - ``predictions``: the predictions with refined poses and half sets.
    - ``voxel_A``: voxel size in Å.
    """

    folder: Path
    maps: dict[str, Float[Tensor, "box box box"]]
    masks: dict[str, Float[Tensor, "box box box"]]
    results: list[GroupResult]
    curves: pd.DataFrame
    predictions: Predictions
    voxel_A: float

    @classmethod
    def open(cls, folder: Path | str) -> Reconstruction:
        """Read a finished reconstruction. Raises :class:`HetacumnError` if a file is missing."""
        folder = Path(folder)
        results = [GroupResult(*row) for row in read_csv(folder / TABLE, "the numbers of maps").itertuples(index=False)]
        maps, voxel_A = read_maps(folder, [one.group for one in results])
        masks, _ = read_maps(folder, [f"{one.group}_mask" for one in results])
        masks = {name.removesuffix("_mask"): mask for name, mask in masks.items()}
        curves = read_csv(folder / "fsc.csv", "the FSC curves of maps")
        return cls(folder, maps, masks, results, curves, Predictions.read(folder), voxel_A)

    def half_maps(self, group: str) -> tuple[Float[Tensor, "box box box"], Float[Tensor, "box box box"]]:
        """Read the half maps of a group, without filter, mask and sharpening."""
        first, second = read_maps(self.folder, [f"{group}_half{half}_unfil" for half in (1, 2)])[0].values()
        return first, second


def read_maps(folder: Path, names: list[str]) -> tuple[dict[str, Float[Tensor, "box box box"]], float]:
    """Read maps of a reconstruction by name, and their voxel size in Å."""
    read = {name: read_mrc(folder / VOLUMES / f"{name}.mrc") for name in names}
    return {name: volume for name, (volume, _) in read.items()}, read[names[0]][1]


def read_csv(path: Path, what: str) -> pd.DataFrame:
    """Read a table. Raises :class:`HetacumnError` if there is none; ``what`` names the expected content."""
    if not path.is_file():
        raise HetacumnError(f"{path}: no such file; expected {what} of a finished reconstruction; run hetacumn reconstruct")
    try:
        return pd.read_csv(path)
    except ValueError as error:  # pandas raises subclasses of ValueError for empty and ragged tables
        raise HetacumnError(
            f"{path}: cannot be read ({error}); expected {what}; delete the folder and reconstruct again"
        ) from error


@dataclass(frozen=True)
class OutputFolder:
    """The folder of a reconstruction.

    - ``path``: the folder.
    - ``kind``: what it contains, ``maps`` or ``motion``.
    - ``files``: all files of a finished reconstruction, relative to the folder; the last one is written last.
    """

    path: Path
    kind: str
    files: Sequence[str]

    def begin(self, digest: str) -> bool:
        """Record the digest of the input, and remove the files of another input; return whether this input is finished.

        Raises:
            HetacumnError: the folder holds files of another kind, such as predictions.
        """
        make_folder(self.path)
        note = self.path / NOTE
        earlier = read_json(note, "the record of a reconstruction") if note.is_file() else None
        taken = [name for name in (VOLUMES, "predictions.star", "points.csv") if (self.path / name).exists()]
        if (earlier is None and taken) or (earlier is not None and earlier.get("kind") != self.kind):
            raise HetacumnError(
                f"{self.path}: holds other results ({', '.join(taken) or NOTE}); expected an empty folder, or one of earlier "
                f"{self.kind}; choose another folder"
            )
        if earlier is not None and earlier.get("made_from") == digest:
            if all((self.path / name).is_file() for name in self.files):
                return True
            if (self.path / self.files[-1]).is_file():  # finished, but a file is gone
                self._clear()
        else:
            self._clear()
        write_json(note, {"made_from": digest, "kind": self.kind, **provenance()})
        return False

    def _clear(self) -> None:
        for folder in (VOLUMES, UNDER_WAY):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in (*self.files, "fsc.png"):
            (self.path / name).unlink(missing_ok=True)

    def part(self, name: str) -> Path:
        """Return the path of a file of a finished part, which is removed at the end."""
        return self.path / UNDER_WAY / name

    def end(self) -> None:
        """Remove the files of the parts."""
        shutil.rmtree(self.path / UNDER_WAY)


def digest_of(*values: object) -> str:
    """Return a digest of arrays, tensors and other values, which must have a unique ``repr``."""
    digest = hashlib.sha256()
    for value in values:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        if isinstance(array, np.ndarray):
            digest.update(repr((array.dtype.str, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
        else:
            digest.update(repr(array).encode())
    return digest.hexdigest()[:32]


def check_particles(images: SourceImages, predictions: Predictions) -> None:
    """Raise :class:`HetacumnError` if the predictions are not those of the images, or a number is not finite."""
    stack = images.stack
    if predictions.names != stack.metadata.names:
        raise HetacumnError(
            f"{stack.folder}: holds other particles than the predictions ({len(stack)} and {len(predictions)}); expected the "
            "predicted particles in the same order"
        )
    for name in ("rotations", "shifts_A", "latents"):
        finite = torch.isfinite(getattr(predictions, name)).flatten(1).all(1)
        if not finite.all():
            raise HetacumnError(f"predictions: row {int((~finite).int().argmax()) + 1}: {name} is not finite; predict again")
