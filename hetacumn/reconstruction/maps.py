"""Maps on disk: the files of a reconstruction.

The folder of a reconstruction contains

- ``volumes/G_half1_unfil.mrc``, ``volumes/G_half2_unfil.mrc``: half maps of each group ``G`` (``class_1``, ``class_2``, … or
  ``selection``), with the names that RELION's postprocessing expects;
- ``volumes/G.mrc``, ``volumes/G_mask.mrc``: filtered and sharpened map of all images, and its soft mask;
- ``volumes/G_locres.mrc``: local resolution in Å, if it was requested;
- ``maps.csv``: numbers of the maps, see :class:`GroupResult`; ``fsc.csv``: FSC curves;
- ``predictions.star``, ``latents.csv``: the predictions with refined poses and half sets (rlnRandomSubset).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_mrc
from hetacumn.particles.predictions import Predictions
from hetacumn.reconstruction.folder import VOLUMES

MAPS = "maps"  # default folder of a reconstruction, in the folder of the predictions
TABLE = "maps.csv"


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
