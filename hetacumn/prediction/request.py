"""The options of a prediction: grade, classes and batch sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hetacumn.common.errors import HetacumnError
from hetacumn.common.settings import suggestion

GRADES = ("encoder", "amortized", "refined", "searched")
FITTED = ("refined", "searched")  # grades that refit the volumes to the inferred states


@dataclass(frozen=True)
class PredictionRequest:
    """The options of a prediction.

    - ``grade``: one of ``GRADES``, from the fastest to the most precise.
    - ``classes``: number of classes; None for the number of the training run, 0 to select it by BIC.
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
        if self.classes is not None and (not isinstance(self.classes, int) or self.classes < 0):
            raise HetacumnError(f"classes is {self.classes!r}; expected a whole number of at least 1, or 0 for BIC")
        if self.like is not None and self.classes is not None:
            raise HetacumnError(
                f"classes is {self.classes}; expected none, because the prediction in {self.like} supplies the classes"
            )
