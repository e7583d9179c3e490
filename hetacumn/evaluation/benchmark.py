"""The benchmark table: one row per run of a method on a dataset, collected from ``results/``.

The column ``part`` assigns each row to one part of the table:

- ``compared``: the methods of this package and other programs;
- ``ablations``: HetACUMN without one of its parts;
- ``shares``: HetACUMN trained on a different fraction of the particles.

Rows of an earlier table stay unchanged if their run is no longer in ``results/``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_table
from hetacumn.evaluation.dataset import BOUNDS, SimulatedDataset
from hetacumn.evaluation.scores import seen_rows

COLUMNS = ["dataset", "snr", "particles", "method", "seed", "trained_share", "accuracy", "accuracy_unseen",
           "accuracy_surer_half", "ari", "bound_known_pose", "bound_marginal", "rotation_error_deg", "rotation_bound_deg",
           "resolution_A", "view_from_z_deg", "view_chance_deg", "train_seconds", "predict_particles_per_second",
           "peak_memory_mb", "finished", "settings", "device", "commit"]  # fmt: skip
RUN = ["dataset", "snr", "particles", "method", "seed", "trained_share"]  #: columns that identify a run
PARTS = ["compared", "ablations", "shares"]
SHARE_TOLERANCE = 0.01  # largest absolute difference of two trained shares that count as equal


def make_table(results: Path | str, earlier: Path | str, usual_share: float) -> pd.DataFrame:
    """Tabulate all runs in ``results``, and the rows of the table ``earlier`` that no run replaces; add the column ``part``.

    ``usual_share`` is the fraction of the particles that the main pipeline trains on.

    Raises:
        HetacumnError: there is neither a run nor an earlier table.
    """
    results, earlier = Path(results), Path(earlier)
    tables = [tabulate_compared(results), tabulate_ablations(results), tabulate_shares(results)]
    if earlier.exists():
        tables.append(pd.read_csv(earlier))
    tables = [table for table in tables if len(table)]
    if not tables:
        raise HetacumnError(f"{results}: no scored run, and {earlier} does not exist; expected runs of the benchmark")
    return sort_runs(pd.concat(tables, ignore_index=True).drop_duplicates(RUN, ignore_index=True), usual_share)


def write_benchmark(path: Path | str, table: pd.DataFrame) -> None:
    """Write the table without its column ``part``."""
    write_table(path, table[COLUMNS])


def tabulate_compared(results: Path) -> pd.DataFrame:
    """Tabulate all methods and programs on every evaluated dataset; see :func:`tabulate_dataset`."""
    folders = {path.parents[1]: path.parents[1].name for path in sorted(results.glob("*/evaluation/scores.csv"))}
    folders |= {path.parents[1]: path.parents[1].name.split("-")[0]
                for path in sorted(results.glob("benchmark/*/evaluation/scores.csv"))}  # fmt: skip
    tables = [tabulate_dataset(folder, dataset) for folder, dataset in folders.items()]
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS) if tables else pd.DataFrame(columns=COLUMNS)


def tabulate_dataset(folder: Path, dataset: str) -> pd.DataFrame:
    """Tabulate the runs in the folder of one dataset.

    If a program returned no predictions, its row has bounds and no scores. The row of a refined prediction contains the
    training cost of the model that it refines.
    """
    scores = pd.read_csv(folder / "evaluation" / "scores.csv")
    simulation = json.loads((folder / "particles" / "config.json").read_text())["simulation"]
    rows = []
    for path in sorted(folder.glob("*/run.json")):
        score = scores[scores["method"] == path.parent.name]
        row = score.iloc[0].to_dict() if len(score) else {"method": path.parent.name, "seed": 0}
        facts = read_run_facts(path.parent, simulation["particles"])
        rows.append({**row, **facts, "dataset": dataset, "snr": simulation["snr"]})
    table = pd.DataFrame(rows)
    table[BOUNDS] = table[BOUNDS].fillna(scores[BOUNDS].iloc[0])
    return table


def tabulate_ablations(results: Path) -> pd.DataFrame:
    """Tabulate the ablations, from ``benchmark/ablation/<dataset>/<method>/<seed>``."""
    return pd.DataFrame(
        [
            _score_run(results, path.parent, path.parts[-4], path.parts[-3], int(path.parts[-2]))
            for path in sorted(results.glob("benchmark/ablation/*/*/*/predictions.star"))
        ]
    ).reindex(columns=COLUMNS)


def tabulate_shares(results: Path) -> pd.DataFrame:
    """Tabulate HetACUMN trained on different fractions of the particles, from ``benchmark/share/<dataset>/<percent>``."""
    return pd.DataFrame(
        [
            _score_run(results, path.parent, path.parts[-3], "hetacumn", 0)
            for path in sorted(results.glob("benchmark/share/*/*/predictions.star"))
        ]
    ).reindex(columns=COLUMNS)


def _score_run(results: Path, folder: Path, dataset: str, method: str, seed: int) -> dict:
    """Return the table row of one run on a dataset of the main pipeline."""
    known = SimulatedDataset.read(results / dataset, dataset)
    score, bounds = known.score(folder).row, pd.read_csv(results / dataset / "evaluation" / "scores.csv")
    row = {**read_run_facts(folder, len(known.truth.classes)), **score}
    row |= {"dataset": dataset, "method": method, "seed": seed, "snr": known.truth.snr}
    return row | {name: bounds[name].iloc[0] for name in BOUNDS}


def read_run_facts(folder: Path, particles: int) -> dict:
    """Read the cost, settings and commit of the run in a folder, and the fraction of ``particles`` that it was trained on.

    If a program returned no predictions, the entry ``settings`` of the result contains the reason instead of the settings. The
    entry ``finished`` is True if ``run.json`` has no such entry.
    """
    run = json.loads((folder / "run.json").read_text())
    run["settings"] = run.get("no_answer") or json.dumps(run.get("settings", {}))
    run["commit"] = run.get("git_commit")
    share = round(len(seen_rows(folder, particles)) / particles, 6)
    return {"finished": True, "particles": particles, "trained_share": share, **run}


def sort_runs(table: pd.DataFrame, usual_share: float) -> pd.DataFrame:
    """Add the column ``part``, and sort by part, then by the columns that identify a run."""
    part = pd.Series("compared", table.index)
    part[(table["method"] == "hetacumn") & ((table["trained_share"] - usual_share).abs() > SHARE_TOLERANCE)] = "shares"
    part[table["method"].str.startswith("ablation-")] = "ablations"
    return table.assign(part=pd.Categorical(part, PARTS, ordered=True)).sort_values(["part", *RUN], ignore_index=True)
