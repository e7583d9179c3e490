"""Agreement of two predictions of the same particles, for stacks without known truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.evaluation.scores import Score, score
from hetacumn.io.mrc import read_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.physics.rotations import NEAR_DEG


@dataclass(frozen=True)
class Comparison:
    """A comparison of two predictions on their common particles.

    - ``particles``: number of common particles.
    - ``score``: scores of the second prediction, with the first prediction as the truth.
    - ``volumes``: class volumes of the first prediction.
    - ``voxel_A``: voxel size of ``volumes`` in Å.
    """

    particles: int
    score: Score
    volumes: Float[Tensor, "k box box box"]
    voxel_A: float

    @property
    def compared_voxel_A(self) -> float:
        """Voxel size in Å at the box of the comparison, which is the smaller box of the two predictions."""
        return self.voxel_A * self.volumes.shape[-1] / self.score.volumes.shape[-1]

    def agreement(self) -> dict[str, float]:
        """Return the measures of agreement by name; the notebook `4_compare` explains them."""
        row, errors_deg = self.score.row, self.score.rotation_error_deg
        return {
            "particles": self.particles,
            "classes": row["ari"],
            "poses_deg": row["rotation_error_deg"],
            "within_10_deg": float((errors_deg < NEAR_DEG).float().mean()),
            "volumes_A": row["resolution_A"],
            "nyquist_A": 2 * self.compared_voxel_A,
        }

    def summary(self) -> str:
        """Describe the agreement of the two predictions in one line of text."""
        found = self.agreement()
        return (
            f"agreement of {self.particles} particles: classes {found['classes']:.3f} (adjusted Rand index), median pose "
            f"difference {found['poses_deg']:.1f}°, {100 * found['within_10_deg']:.0f} % within 10°, volumes agree to "
            f"{found['volumes_A']:.1f} Å"
        )


def compare_answers(first: Path | str, second: Path | str) -> Comparison:
    """Compare the predictions in two folders on the particles with equal names.

    Raises:
        HetacumnError: the predictions have no particle in common.
    """
    first, second = Path(first), Path(second)
    one, other = Predictions.read(first), Predictions.read(second)
    place = pd.Index(one.names).get_indexer(pd.Index(other.names))
    known = place >= 0
    if not known.any():
        raise HetacumnError(f"{second}: shares no particle with {first}; expected two predictions with particles in common")
    one, other = one[place[known]], other[known.nonzero()[0]]
    (volumes, voxel_A), (other_volumes, _) = (read_volumes(folder / "volumes", "class_") for folder in (first, second))
    found = score(other, other_volumes, one, volumes, voxel_A, np.zeros(len(one), dtype=bool))
    return Comparison(len(one), found, volumes, voxel_A)
