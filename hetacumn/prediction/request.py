"""The options of a prediction: grade, classes, batch sizes, and an earlier prediction whose volumes and classes are reused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.ab_initio.start import MODEL, START
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_run
from hetacumn.common.settings import suggestion
from hetacumn.io.mrc import read_volumes
from hetacumn.prediction.classes import Mixture

GRADES = ("encoder", "amortized", "refined", "searched")
OUTSIDE = "outside_"  # stem of the files of the components outside a mask
FITTED = ("refined", "searched")  # grades that refit the volumes to the inferred states


@dataclass(frozen=True)
class PredictionRequest:
    """The options of a prediction.

    - ``grade``: one of ``GRADES``, from the fastest to the most precise.
    - ``classes``: number of classes; None for the number of the training run.
    - ``like``: folder of an earlier prediction of other particles with the same model and grade. The new prediction reuses its
      volumes and classes.
    - ``chunk``: images in memory at a time.
    - ``polish_steps``: gradient steps of the refit of the volumes, for grades in ``FITTED``; 0 for no refit.
    - ``path_points``: number of volumes along the first latent axis.
    """

    grade: str = "amortized"
    classes: int | None = None
    like: Path | str | None = None
    chunk: int = 10_000
    polish_steps: int = 150
    path_points: int = 10

    def __post_init__(self) -> None:
        if self.grade not in GRADES:
            raise HetacumnError(f"grade is {self.grade!r}; {suggestion(str(self.grade), GRADES)}")
        if self.classes is not None and (not isinstance(self.classes, int) or self.classes < 1):
            raise HetacumnError(f"classes is {self.classes!r}; expected a whole number of at least 1")
        if self.like is not None and self.classes is not None:
            raise HetacumnError(
                f"classes is {self.classes}; expected none, because the prediction in {self.like} supplies the classes"
            )


@dataclass(frozen=True)
class EarlierPrediction:
    """The volumes and classes of an earlier prediction, for reuse in a new prediction.

    - ``basis``: the mean volume and the components.
    - ``centres``: the latents of the classes.
    - ``mixture``: classifies an image by its z; None if the classes come from likelihoods marginalised over all poses.
    - ``outside``: the components outside the mask of the model; None without such components.
    """

    basis: Float[Tensor, "j box box box"]
    centres: Float[Tensor, "k j-1"]
    mixture: Mixture | None
    outside: Float[Tensor, "p box box box"] | None = None

    @classmethod
    def read(cls, folder: Path | str, model: str, grade: str) -> EarlierPrediction:
        """Read the volumes and classes of the prediction in a folder.

        Raises:
            HetacumnError: the folder holds no prediction, or one with another ``model`` (a :func:`model_digest`) or ``grade``.
        """
        run, path = read_run(folder), Path(folder) / "run.json"
        for name, expected in (("model", model), ("grade", grade)):
            if run.get(name) != expected:
                raise HetacumnError(
                    f"{path}: {name} is {run.get(name)!r}; expected {expected!r}, the {name} of the new prediction"
                )
        if "class_mixture" not in run:
            raise HetacumnError(
                f"{path}: no entry class_mixture; expected a prediction by this version of hetacumn; predict again"
            )
        volumes, mixture = Path(folder) / "volumes", run["class_mixture"]
        outside = read_volumes(volumes, OUTSIDE)[0] if list(volumes.glob(f"{OUTSIDE}*.mrc")) else None
        centres = torch.tensor(run["class_centres"])
        return cls(read_volumes(volumes, "basis_")[0], centres, None if mixture is None else Mixture.of(mixture), outside)

    def volumes(self) -> Float[Tensor, "all box box box"]:
        """Return the mean volume, the components, and the components outside the mask."""
        return self.basis if self.outside is None else torch.cat([self.basis, self.outside])


def model_digest(model: Path | str, grade: str) -> str:
    """Hash the file of the trained model in a folder, or of its *ab initio* start for the grade ``searched``."""
    return hashlib.sha256((Path(model) / (START if grade == "searched" else MODEL)).read_bytes()).hexdigest()[:16]
