"""Agreement of two predictions of the same particles, and of maps along a motion with the true volumes.

:func:`compare_path` needs a simulated stack; the comparison of two predictions needs no known truth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import project_root
from hetacumn.evaluation.dataset import dampen, envelope_of
from hetacumn.evaluation.scores import Score, pose_errors, score
from hetacumn.io.mrc import read_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.physics.alignment import place_volume
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import fsc, resolution_A, shell_frequencies
from hetacumn.physics.rotations import NEAR_DEG, Frame
from hetacumn.prediction.answer import Answer
from hetacumn.reconstruction.kernel_maps import FEWEST, latent_distances
from hetacumn.reconstruction.masks import make_mask
from hetacumn.reconstruction.postprocessing import filter_shells
from hetacumn.simulation.projection import density
from hetacumn.simulation.structures import load_motion
from hetacumn.simulation.truth import Truth


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


def compare_path(
    maps: Float[Tensor, "p box box box"], path: Float[Tensor, "p q"], answer: Answer, truth: Path | str
) -> pd.DataFrame:
    """Compare the maps at latents of a path with the true volumes.

    The true volume of a point is the volume at the median true coordinates of the 200 nearest particles (:data:`FEWEST`). Each
    map is aligned to the true volume.

    Returns:
        One row per point: ``point``, the true coordinate of each moving part, ``resolution_A`` at an FSC of 0.5 inside a mask
        around the true volume, and ``correlation`` inside this mask with both volumes low-passed to this resolution. The
        columns ``…_training_box`` state the same of the volume V(z) at the training box.
    """
    truth = Path(truth)
    known = Truth.read(truth / "truth.npz")[answer.stack.rows]
    settings = json.loads((truth / "config.json").read_text())
    simulation = settings["simulation"]
    motion = load_motion(simulation["molecule"], project_root() / "data")
    _, frame = pose_errors(answer.predictions.rotations, known.rotations)
    box = maps.shape[-1]
    voxel_A = simulation["pixel_A"] * simulation["box"] / box
    rows = []
    for i, (volume, z) in enumerate(zip(maps, path, strict=True)):
        near = latent_distances(answer.predictions.latents, z, answer.basis[1:]).argsort()[:FEWEST]
        coordinates = known.coordinate[near].median(0).values
        atoms = motion.move(coordinates.float())
        true = density(atoms, simulation["box"], simulation["pixel_A"])
        true = dampen(true[None], simulation["pixel_A"], envelope_of(settings))[0]
        row: dict[str, float] = {"point": i + 1, **dict(zip(motion.names, coordinates.tolist(), strict=True))}
        for name, found, size_A in (("", volume, voxel_A), ("_training_box", answer.volume(z), answer.voxel_A)):
            limit_A, correlation = _agreement(found, crop_volumes(true, found.shape[-1]), size_A, frame)
            row |= {f"resolution_A{name}": limit_A, f"correlation{name}": correlation}
        rows.append(row)
    return pd.DataFrame(rows)


def _agreement(
    found: Float[Tensor, "box box box"], true: Float[Tensor, "box box box"], voxel_A: float, frame: Frame
) -> tuple[float, float]:
    """Return the resolution of a volume in Å, and its correlation with the truth at this resolution."""
    aligned, mask = place_volume(found, true, frame).apply(found), make_mask(true, voxel_A)
    curve = fsc(aligned * mask, true * mask)
    limit_A = resolution_A(curve, voxel_A)
    band = (shell_frequencies(len(true), voxel_A) <= 1 / limit_A).float()
    inside = [filter_shells(one, band)[mask > 0.5] for one in (aligned, true)]
    return limit_A, float(torch.corrcoef(torch.stack(inside))[0, 1])
