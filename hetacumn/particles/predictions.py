"""Predictions: pose, class and latent of each particle, in memory and on disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.io import star
from hetacumn.io.cryosparc import load_rows, write_aligned
from hetacumn.io.stack_reader import find_stack
from hetacumn.io.stacks import read_layout
from hetacumn.particles.metadata import poses_of

CRYOSPARC = "predictions.cs"  # written beside predictions.star if the source is a .cs file

#: Columns of an earlier refinement that describe its own poses; they do not apply to predicted poses and are removed.
STALE_COLUMNS = [
    "rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples",
    "rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior",
    "rlnOriginXPriorAngst", "rlnOriginYPriorAngst", "rlnOriginXPrior", "rlnOriginYPrior",
]  # fmt: skip
WHERE_KNOWN = {"class_probabilities": "class_probability", "log_ratios": "log_likelihood_ratio",
               "class_settled": "class_settled"}  # columns of latents.csv  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """The predictions for particles, one per particle.

    - ``names``: rlnImageName in the source table; the order of all fields.
    - ``rotations``: rotations that map object to view.
    - ``shifts_A``: shifts (x, y) that move the image, in Å.
    - ``classes``: class of each particle, counted from 0.
    - ``latents``: latent coordinates ``z`` of each particle (its conformation).
    - ``class_probabilities``: probability of the predicted class; None where unknown.
    - ``log_ratios``: log-likelihood gain of each image in nats, see :func:`~hetacumn.prediction.inference.log_ratios`; None
      where unknown.
    - ``class_settled``: settled share of the class of each image, see :mod:`hetacumn.prediction.trust`; NaN for a class that is
      not tested, None where unknown.
    - ``half_sets``: half set, 1 or 2, of each particle in a reconstruction or in the source (rlnRandomSubset); 0 for a particle
      in neither, None where unknown.
    """

    names: list[str]
    rotations: Float[Tensor, "n 3 3"]
    shifts_A: Float[Tensor, "n 2"]
    classes: Int[Tensor, " n"]
    latents: Float[Tensor, "n q"]
    class_probabilities: Float[Tensor, " n"] | None = None
    log_ratios: Float[Tensor, " n"] | None = None
    class_settled: Float[Tensor, " n"] | None = None
    half_sets: Int[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Int[np.ndarray, " m"]) -> Predictions:
        """Select the particles at the given positions, in this order."""
        names = [self.names[row] for row in rows]
        known = {field: values[rows] for field, values in self._where_known()}
        half_sets = None if self.half_sets is None else self.half_sets[rows]
        return Predictions(
            names,
            self.rotations[rows],
            self.shifts_A[rows],
            self.classes[rows],
            self.latents[rows],
            **known,
            half_sets=half_sets,
        )

    def rows_of_class(self, number: int) -> Int[np.ndarray, " m"]:
        """Return the rows, from 0, of the particles in class ``number``, counted from 1.

        Raises:
            HetacumnError: the class has no particles.
        """
        rows = (self.classes == number - 1).numpy().nonzero()[0]
        if not len(rows):
            last = int(self.classes.max()) + 1
            raise HetacumnError(f"class {number} has no particles; expected one of the classes 1 to {last}")
        return rows

    def rows_with_gain(self, least: float) -> Int[np.ndarray, " m"]:
        """Return the rows, from 0, of the particles with a log-likelihood gain of at least ``least`` nats.

        Raises:
            HetacumnError: the gains are unknown, or no particle has such a gain.
        """
        if self.log_ratios is None:
            raise HetacumnError("no log-likelihood gains; expected predictions of another grade than encoder")
        rows = (self.log_ratios >= least).numpy().nonzero()[0]
        if not len(rows):
            raise HetacumnError(f"no particle has a gain of {least:g} nats; expected at most {float(self.log_ratios.max()):g}")
        return rows

    def _where_known(self) -> Iterator[tuple[str, Tensor]]:
        for field in WHERE_KNOWN:
            if getattr(self, field) is not None:
                yield field, getattr(self, field)

    def write(self, out_dir: Path | str, source: Path | str, data_dir: Path | str | None = None) -> None:
        """Write ``predictions.star``, ``latents.csv`` and, for a .cs ``source``, ``predictions.cs`` to ``out_dir``, atomically.

        ``predictions.star`` is a RELION 3.1 STAR file. It contains the rows of the source for these particles, with unchanged
        optics and CTF, the predicted angles and origins, rlnClassNumber (from 1), and the log ratios as
        rlnLogLikeliContribution. If the source does not state the box, the function reads it from the first stack
        of each optics group, if the stack is found (``read_particles`` explains ``data_dir``).

        ``predictions.cs`` contains the rows of the .cs file for the same particles, with all fields of the file, the predicted
        poses and shifts, and the classes, counted from 0.

        ``latents.csv`` contains one row per particle: particle, z1, z2, …, class (from 1), and class_probability,
        log_likelihood_ratio and class_settled where known.

        Raises:
            HetacumnError: the source does not contain one of the names, or contains a name twice.
        """
        out_dir, source = Path(out_dir), Path(source)
        table = star.read_table(source)
        rows = self._rows_of(table)
        particles = table.particles.iloc[rows].reset_index(drop=True)
        particles = particles.drop(columns=STALE_COLUMNS, errors="ignore")
        star.set_poses(particles, self.rotations, self.shifts_A)
        particles["rlnClassNumber"] = self.classes.cpu().numpy() + 1
        if self.log_ratios is not None:
            particles["rlnLogLikeliContribution"] = self.log_ratios.cpu().numpy()
        if self.half_sets is not None:
            particles["rlnRandomSubset"] = self.half_sets.cpu().numpy()
        star.write_table(out_dir / "predictions.star", particles, _with_box(table, data_dir))
        _warn_of_stack_names(out_dir / "predictions.star", table)
        (out_dir / CRYOSPARC).unlink(missing_ok=True)
        if source.suffix == ".cs":
            self._write_cs(out_dir / CRYOSPARC, load_rows(source)[rows])
        columns = {f"z{i + 1}": z for i, z in enumerate(self.latents.cpu().numpy().T)}
        columns["class"] = self.classes.cpu().numpy() + 1
        columns |= {WHERE_KNOWN[field]: values.cpu().numpy() for field, values in self._where_known()}
        latents = pd.DataFrame({"particle": self.names, **columns})
        with atomic_path(out_dir / "latents.csv") as temporary:
            latents.to_csv(temporary, index=False, float_format="%.9g")

    def _write_cs(self, path: Path, rows: Shaped[np.ndarray, " n"]) -> None:
        """Write the rows of a .cs file with the predictions as alignments."""
        others = {"class": self.classes.cpu().numpy()}
        if self.class_probabilities is not None:
            others["class_posterior"] = self.class_probabilities.cpu().numpy()
        if self.half_sets is not None:
            others["split"] = (self.half_sets == 2).cpu().numpy()
        write_aligned(path, rows, self.rotations, self.shifts_A, others)

    def _rows_of(self, table: star.ParticleTable) -> Int[np.ndarray, " n"]:
        """Return the row of the source table for each prediction."""
        rows = table.names().get_indexer(pd.Index(self.names))
        if (rows < 0).any():
            name = self.names[int((rows < 0).argmax())]
            raise HetacumnError(f"{table.path}: no row for {name}; expected a row for every prediction")
        return rows

    @classmethod
    def read(cls, out_dir: Path | str) -> Predictions:
        """Read the files that :meth:`write` wrote.

        Raises:
            HetacumnError: a file is missing or cannot be read, poses or classes are missing, or the two files contain different
                particles or classes.
        """
        out_dir = Path(out_dir)
        table = star.read_table(out_dir / "predictions.star")
        poses = poses_of(table, pixel_A=1.0)  # shifts in Å
        if poses is None:
            raise HetacumnError(f"{table.path}: no column {star.ANGLES[0]}; expected the predicted poses")
        names = table.particles["rlnImageName"].astype(str).tolist()
        path = out_dir / "latents.csv"
        if not path.is_file():
            raise HetacumnError(f"{path}: no such file; expected the latents of {table.path}")
        try:
            latents = pd.read_csv(path, dtype={"particle": str})
        except (OSError, ValueError) as error:  # pandas raises subclasses of ValueError for empty and ragged tables
            raise HetacumnError(f"{path}: cannot be read ({error}); expected the latents of {table.path}") from error
        for column in ("particle", "class"):
            if column not in latents:
                raise HetacumnError(f"{path}: no column {column}; expected the latents of {table.path}")
        if latents["particle"].tolist() != names:
            raise HetacumnError(f"{path}: other particles than {table.path}; expected the same particles in the same order")
        classes = torch.tensor(table.numbers("rlnClassNumber")).long()
        if latents["class"].tolist() != classes.tolist():
            raise HetacumnError(f"{path}: other classes than {table.path}; expected the files of one prediction; predict again")
        half_sets = torch.tensor(table.numbers("rlnRandomSubset")).long() if table.has("rlnRandomSubset") else None
        known = {field: latents.pop(column) for field, column in WHERE_KNOWN.items() if column in latents}
        z = latents.drop(columns=["particle", "class"]).to_numpy(dtype=np.float32, copy=True)
        return cls(
            names=names,
            rotations=poses.rotations,
            shifts_A=poses.shifts_px,
            classes=classes - 1,
            latents=torch.from_numpy(z),
            half_sets=half_sets,
            **{field: torch.tensor(values.to_numpy(dtype=np.float32)) for field, values in known.items()},
        )


def _warn_of_stack_names(path: Path, table: star.ParticleTable) -> None:
    """Warn if names of stacks do not end in .mrcs, because RELION reads such files as maps."""
    names = [name for name in pd.unique(table.images()[0]) if not name.endswith(".mrcs")]
    if names:
        warnings.warn(
            f"{path}: the name of stack {names[0]} does not end in .mrcs, as RELION expects; for RELION, make links with names "
            "that end in .mrcs, and use these names in the file (docs/other_programs.md)",
            stacklevel=3,
        )


def _with_box(table: star.ParticleTable, data_dir: Path | str | None) -> pd.DataFrame:
    """Add the column rlnImageSize, which RELION needs, to the optics table; change nothing if a stack is missing."""
    if "rlnImageSize" in table.optics:
        return table.optics
    names, boxes = table.images()[0], list[int]()
    for row in table.first_of_each_group():
        if row is None:
            boxes.append(0)
            continue
        stack = find_stack(names[row], table.path, data_dir)
        if stack is None:
            return table.optics
        boxes.append(read_layout(stack).shape[-1])
    return table.optics.assign(rlnImageSize=[box or max(boxes) for box in boxes])  # a group without particles gets any box
