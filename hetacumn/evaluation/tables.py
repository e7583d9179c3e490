"""Tables of the scores of several datasets or seeds, read from ``results/``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from hetacumn.common.files import write_table
from hetacumn.common.run_files import read_config
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.physics.half_plane import HalfPlane

RESULT_COLUMNS = ["dataset", "method", "seed", "accuracy", "accuracy_unseen", "accuracy_surer_half", "ari", "bound_known_pose",
                  "bound_marginal", "rotation_error_deg", "rotation_bound_deg", "resolution_A"]  # fmt: skip
ARRIVED_WITHIN = 0.03  # largest distance of the accuracy below the Bayes bound


@dataclass(frozen=True)
class Evaluations:
    """The files that the notebook `5_evaluate` wrote for several datasets.

    - ``scores``, ``fsc``: rows of all datasets.
    - ``confusions``: confusion matrices. This field and the following fields are indexed by dataset, then by method.
    - ``rotation_errors``: rotation error of each particle in degrees.
    - ``volumes``: aligned class volumes, and the true volumes under the name ``truth``.
    - ``histories``: training histories of the methods that have one, with the columns of :func:`relate_to_noise`.
    """

    scores: pd.DataFrame
    fsc: pd.DataFrame
    confusions: dict[str, dict[str, list[list[int]]]]
    rotation_errors: dict[str, dict[str, Float[np.ndarray, " _n"]]]
    volumes: dict[str, dict[str, Float[np.ndarray, "_k _z _y _x"]]]
    histories: dict[str, dict[str, pd.DataFrame]]


def read_evaluations(results: Path | str, datasets: list[str]) -> Evaluations:
    """Read the evaluations of ``datasets`` from the folder ``results``."""
    folders = {dataset: Path(results) / dataset for dataset in datasets}
    scores, fsc = (
        pd.concat([pd.read_csv(folder / "evaluation" / name) for folder in folders.values()], ignore_index=True)
        for name in ("scores.csv", "fsc.csv")
    )
    confusions = {dataset: json.loads((folder / "evaluation" / "confusion.json").read_text())
                  for dataset, folder in folders.items()}  # fmt: skip
    errors, volumes = (
        {dataset: dict(np.load(folder / "evaluation" / name)) for dataset, folder in folders.items()}
        for name in ("rotation_errors.npz", "aligned_volumes.npz")
    )
    methods = list(dict.fromkeys(scores["method"]))
    histories = {dataset: _read_histories(folder, methods) for dataset, folder in folders.items()}
    return Evaluations(scores, fsc, confusions, errors, volumes, histories)


def _read_histories(folder: Path, methods: list[str]) -> dict[str, pd.DataFrame]:
    paths = {method: folder / method / "history.csv" for method in methods}
    tables = {method: pd.read_csv(path) for method, path in paths.items() if path.is_file()}
    own = {method for method in tables if not (folder / method / "config.json").is_file()}  # of another program
    return {method: table if method in own else relate_to_noise(table, read_config(folder / method))
            for method, table in tables.items()}  # fmt: skip


def relate_to_noise(history: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Add the columns ``joint_step`` and ``misfit_over_noise`` to the ``history`` of a training run with joint steps.

    ``joint_step`` counts the steps of both tasks. The misfit of an image is a sum over a band of frequencies that widens with
    these steps, and so it rises even where the fit improves. ``misfit_over_noise`` is the misfit over the expected misfit of
    the noise alone in the same band: 1 where a reconstruction leaves only noise.

    Args:
        history: The table that training wrote, with a row at every 25th step.
        settings: The ``config.json`` of the run.
    """
    joint = history["phase"] == "joint"
    if not joint.any():
        return history
    alone = int(history.loc[~joint, "step"].max()) if not joint.all() else 0
    done = (history["step"] - alone - 1) / max(1, int(history["step"].max()) - alone)  # as of the step that made the row
    first, last = settings["config"]["radius"]
    plane = HalfPlane(settings["box"])
    radii = ((first + (last - first) * done) * settings["box"])[joint]
    noise = radii.map(lambda radius: 0.5 * float(plane.weight[: plane.count(radius)].sum()))
    more = {"joint_step": (history["step"] - alone).where(joint), "misfit_over_noise": history["misfit"] / noise}
    return history.assign(**more)


def replace_rows(path: Path | str, rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Add rows to a CSV table, atomically; they replace the rows with the same values in the columns ``key``.

    The function returns the whole table, sorted by ``key``. Rows with the same values in ``key`` keep their order.
    """
    path = Path(path)
    if path.exists():
        earlier = pd.read_csv(path)
        replaced = pd.MultiIndex.from_frame(earlier[key]).isin(pd.MultiIndex.from_frame(rows[key]))
        rows = pd.concat([earlier[~replaced], rows], ignore_index=True)
    table = rows.sort_values(key, kind="stable", ignore_index=True)
    write_table(path, table)
    return table


def has_rows(path: Path | str, **values: str | int) -> bool:
    """Return whether a CSV table exists and has a row with these values of its columns."""
    if not Path(path).exists():
        return False
    table = pd.read_csv(path)
    return bool((table[list(values)] == pd.Series(values)).all(axis=1).any())


def score_seeds(folder: Path | str, dataset: SimulatedDataset) -> pd.DataFrame:
    """Score the runs of one dataset from several seeds; return one row per seed.

    ``folder`` holds one folder per seed. A run has ``arrived`` if its accuracy is at most 0.03 below the Bayes bound of the
    dataset.
    """
    bound = pd.read_csv(dataset.folder / "evaluation" / "scores.csv")["bound_marginal"].iloc[0]
    folders = sorted((path.parent for path in Path(folder).glob("*/predictions.star")), key=lambda path: int(path.name))
    table = pd.DataFrame([{"dataset": dataset.name, "seed": int(path.name), **dataset.score(path).row} for path in folders])
    table = table[["dataset", "seed", "accuracy", "accuracy_unseen", "rotation_error_deg", "resolution_A"]]
    return table.assign(bound_marginal=bound, arrived=table["accuracy"] >= bound - ARRIVED_WITHIN)
