"""The benchmark table: rows come from the runs that exist, and from the earlier table for other runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hetacumn.common.errors import HetacumnError
from hetacumn.evaluation.benchmark import COLUMNS, make_table, read_run_facts, write_benchmark

BOUNDS = {"bound_known_pose": 0.99, "bound_marginal": 0.95, "rotation_bound_deg": 2.5}
DEFAULT_SHARE = 0.7


def add_run(folder: Path, seen: int | None = 70, **run) -> None:
    """Write the files that the table reads, for a run on 100 particles."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    if seen is not None:
        np.save(folder / "train_rows.npy", np.arange(seen))


def add_dataset(folder: Path, accuracies: dict[str, float], snr: float) -> None:
    """Write the simulation settings and the scores of a dataset of 100 particles."""
    (folder / "particles").mkdir(parents=True)
    (folder / "particles/config.json").write_text(json.dumps({"simulation": {"particles": 100, "snr": snr}}))
    rows = [{"method": method, "seed": 0, "accuracy": accuracy, **BOUNDS} for method, accuracy in accuracies.items()]
    (folder / "evaluation").mkdir()
    pd.DataFrame(rows).to_csv(folder / "evaluation/scores.csv", index=False)


@pytest.fixture
def results(tmp_path) -> Path:
    """Return a results folder: one dataset of the main pipeline, and one of the benchmark without a RELION prediction."""
    results = tmp_path / "results"
    add_dataset(results / "adk", {"em": 0.8, "hetacumn": 0.9}, 0.1)
    add_run(results / "adk/em", train_seconds=5, git_commit="abc")
    add_run(results / "adk/hetacumn", train_seconds=9)
    add_dataset(results / "benchmark/adk-snr30-3k", {"hetacumn": 0.7}, 0.03)
    add_run(results / "benchmark/adk-snr30-3k/hetacumn", train_seconds=11)
    add_run(results / "benchmark/adk-snr30-3k/relion", seen=None, finished=False, no_answer="relion_refine: not found")
    return results


def key(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index(["dataset", "snr", "method", "trained_share"])


def test_every_run_is_a_row_with_its_scores_and_its_cost(results, tmp_path):
    table = make_table(results, tmp_path / "absent.csv", DEFAULT_SHARE)
    assert table["part"].unique().tolist() == ["compared"] and len(table) == 4
    rows = key(table)
    em = rows.loc[("adk", 0.1, "em", 0.7)]
    assert em["accuracy"] == 0.8 and em["train_seconds"] == 5 and em["finished"] and em["commit"] == "abc"
    assert em["particles"] == 100 and em["bound_marginal"] == 0.95
    assert rows.loc[("adk", 0.03, "hetacumn", 0.7), "train_seconds"] == 11  # its folder is named adk-snr30-3k


def test_a_program_without_predictions_has_a_row_with_bounds_and_no_scores(results, tmp_path):
    row = key(make_table(results, tmp_path / "absent.csv", DEFAULT_SHARE)).loc[("adk", 0.03, "relion", 1.0)]
    assert row["settings"] == "relion_refine: not found" and not row["finished"]
    assert pd.isna(row["accuracy"]) and pd.isna(row["rotation_error_deg"]) and row["rotation_bound_deg"] == 2.5


def test_rows_of_absent_runs_stay_and_a_newer_run_replaces_its_row(results, tmp_path):
    path = tmp_path / "table.csv"
    gone = {"dataset": "ribosome", "snr": 0.1, "particles": 100, "method": "hetacumn", "seed": 0, "trained_share": 0.7}
    older = gone | {"dataset": "adk"}
    pd.DataFrame([gone | {"accuracy": 0.5}, older | {"accuracy": 0.1}]).to_csv(path, index=False)
    rows = key(make_table(results, path, DEFAULT_SHARE))
    assert len(rows) == 5 and rows.index.is_unique
    assert rows.loc[("ribosome", 0.1, "hetacumn", 0.7), "accuracy"] == 0.5
    assert rows.loc[("adk", 0.1, "hetacumn", 0.7), "accuracy"] == 0.9


def test_writing_the_table_a_second_time_changes_nothing(results, tmp_path):
    path = tmp_path / "table.csv"
    write_benchmark(path, make_table(results, path, DEFAULT_SHARE))
    first = path.read_bytes()
    write_benchmark(path, make_table(results, path, DEFAULT_SHARE))
    assert path.read_bytes() == first and first.decode().splitlines()[0].split(",") == COLUMNS
    (results / "adk").rename(tmp_path / "tidied away")
    (results / "benchmark").rename(tmp_path / "that too")
    write_benchmark(path, make_table(results, path, DEFAULT_SHARE))
    assert path.read_bytes() == first


def test_ablations_and_training_shares_follow_the_compared_methods(results, tmp_path):
    path = tmp_path / "table.csv"
    row = {"dataset": "a", "snr": 0.1, "particles": 100, "method": "hetacumn", "seed": 0, "trained_share": 0.1, "accuracy": 0.4}
    ablation = row | {"method": "ablation-feedback", "trained_share": 0.7}
    pd.DataFrame([row, row | {"trained_share": 0.705}, ablation, row | {"method": "em"}]).to_csv(path, index=False)
    table = make_table(results, path, DEFAULT_SHARE)
    ours = table[table["dataset"] == "a"]
    assert ours[["method", "trained_share", "part"]].values.tolist() == [
        ["em", 0.1, "compared"], ["hetacumn", 0.705, "compared"], ["ablation-feedback", 0.7, "ablations"],
        ["hetacumn", 0.1, "shares"],
    ]  # fmt: skip
    assert table["part"].is_monotonic_increasing


def test_refined_predictions_have_the_training_share_of_their_model(results):
    add_run(results / "adk/hetacumn-refined", seen=None)
    assert read_run_facts(results / "adk/hetacumn-refined", 100)["trained_share"] == 0.7


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(HetacumnError, match="expected runs of the benchmark"):
        make_table(tmp_path, tmp_path / "absent.csv", DEFAULT_SHARE)
