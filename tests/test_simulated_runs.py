"""benchmark/realistic.py, mixtures.py, states.py and stop_sign.py: one row per state, mixture, stack or class; no run twice."""

from pathlib import Path

import mixtures
import numpy as np
import pandas as pd
import pytest
import realistic
import simulated_runs
import states
import stop_sign
import torch
from stand_ins import record_runs

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.evaluation.bound import Bound
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.io.mrc import read_volumes, write_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.simulation.settings import Realism, Simulation
from hetacumn.simulation.truth import Truth

ROOT = Path(__file__).resolve().parents[1]
needs_data = pytest.mark.skipif(not (ROOT / "data/complexes.npz").exists(), reason="data/ is absent: run `dvc pull`")


def answer_truth(stack: PreparedStack, out: Path) -> None:
    """Stand in for a prediction: write the truth of all but the last image."""
    particles, names = stack.source, stack.metadata.names[:-1]
    known = Truth.read(particles.with_name("truth.npz"))[np.arange(len(names))]
    Predictions(names, known.rotations, known.shifts_A, known.classes, torch.zeros(len(names), 1)).write(out, stack.source)
    volumes, voxel_A = read_volumes(particles.parent, "truth_class")
    write_volumes(out / "volumes", volumes, "class_", voxel_A)
    trust = [{"images": 90, "settled": share, "half_map_A": 9.0} for share in (0.97, 0.3)]
    run = {"train_seconds": 7.0, "device": "a toy", "predict_particles_per_second": 10, "class_trust": trust,
           "states": {"states": 5, "volumes": 6, "reason": "a toy"}}  # fmt: skip
    write_json(out / "run.json", run)


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """Replace training and prediction by :func:`answer_truth`; return a line for each of them that ran."""
    return record_runs(
        monkeypatch,
        [realistic, mixtures, states, stop_sign],
        answer_truth,
        lambda stack, job: (
            f"train {job.method}, {job.config.classes} classes, share {job.share}, {job.config.ab_initio.routes[0]}"
        ),
        lambda job: f"predict {job.request.grade}",
    )


def files(folder: Path) -> list[str]:
    return ["--out", str(folder / "runs"), "--table", str(folder / "table.csv"), "--figure", str(folder / "figure.png")]


@needs_data
def test_each_state_of_a_realistic_dataset_has_a_row_and_no_run_is_repeated(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(realistic, "bound_dataset", lambda *_: Bound(0.9, 0.9, 5.0, (0.9, 0.8), (0.7, 0.6)))
    small = ["--datasets", "adk-realistic", "--particles", "200", "--box", "48", *files(tmp_path)]
    realistic.main(small)
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.columns.tolist() == [*realistic.KEY, *realistic.SCORES, "seconds", "device"]
    assert table["state"].tolist() == [1, 2] and table["accuracy"].tolist() == [1, 1] == table["poses_within_10deg"].tolist()
    truth = Truth.read(tmp_path / "runs/adk-realistic-0/particles/truth.npz")
    assert table["particles"].sum() == (truth.junk[:-1] == 0).sum() < 199  # neither junk nor the missing image
    assert table["seconds"].tolist() == [27, 27] and table["bound"].tolist() == [0.9, 0.8]
    assert (tmp_path / "figure.png").stat().st_size < 300_000
    assert runs == ["train em, 2 classes, share 0.7, classes", "predict searched"]
    realistic.main(small)
    realistic.main([*small, "--method", "hetacumn"])
    assert runs[2:] == ["train hetacumn, 2 classes, share 0.7, classes", "predict amortized"]
    assert len(pd.read_csv(tmp_path / "table.csv")) == 4
    with pytest.raises(HetacumnError, match="settings of another run"):
        realistic.main([*small, "--method", "em", "--particles", "100", "--table", str(tmp_path / "other.csv")])


@needs_data
def test_each_mixture_has_a_row(runs, tmp_path):
    mixtures.main(["--species", "2", "3", "--images", "40", "--box", "64", *files(tmp_path)])
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["species"].tolist() == [2, 3] and table["accuracy"].tolist() == [1, 1]
    assert table["rotation_median_deg"].max() < 0.1
    assert [line.partition(",")[0] for line in runs] == ["train em", "predict searched"] * 2
    mixtures.main(["--species", "3", "--images", "40", "--box", "64", *files(tmp_path)])
    assert len(runs) == 4


@needs_data
def test_each_class_has_its_settled_and_its_true_share(runs, tmp_path):
    small = ["--stacks", "adk-snr1000-200", "adk-snr1000-200-junk", "--box", "48", *files(tmp_path)]
    stop_sign.main(small)
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.columns.tolist() == stop_sign.COLUMNS and table["state"].tolist() == [1, 2] * 2
    assert (
        table["found"].all() and table["warned"].tolist() == [False, True] * 2 and table["settled"].tolist() == [0.97, 0.3] * 2
    )
    assert (table["true_share"][:2] == 1).all() and table["true_share"][2:].between(0.4, 0.8).all()  # junk counts as wrong
    assert (tmp_path / "figure.png").stat().st_size < 300_000
    stop_sign.main(small)
    assert [runs[0], runs[2]] == [f"train em, {classes} classes, share 1.0, classes" for classes in (2, 3)]
    with pytest.raises(HetacumnError, match="unknown stack 'adk-3'; expected <molecule>-snr"):
        stop_sign.main(["--stacks", "adk-3", *files(tmp_path)])


@needs_data
def test_each_stack_has_its_true_and_its_found_number_of_states(runs, tmp_path):
    states.main(["--stacks", "adk-snr1000-200-junk", "mixture3-40", "--box", "64", *files(tmp_path)])
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["states"].tolist() == [2, 3] and table["found"].tolist() == [5, 5] and table["volumes"].tolist() == [6, 6]
    assert table["accuracy"].tolist() == [1, 1] and (tmp_path / "figure.png").stat().st_size < 300_000
    lines = [line for line in runs if line.startswith("train")]
    assert lines == ["train em, 0 classes, share 1.0, classes", "train em, 0 classes, share 1.0, independent"]


def test_a_smaller_box_has_the_same_field_of_view_and_the_same_shifts():
    whole = Simulation({}, box=128, pixel_A=2.0, shift_px=10.0, realism=Realism(shift_sd_px=5.0))
    small = simulated_runs.resized(whole, 64)
    assert (small.box, small.pixel_A, small.shift_px, small.realism.shift_sd_px) == (64, 4.0, 5.0, 2.5)
    assert simulated_runs.resized(whole, 128) == whole


def test_rows_of_the_same_run_are_replaced(tmp_path):
    path = tmp_path / "table.csv"
    assert not has_rows(path, name="b")
    replace_rows(path, pd.DataFrame({"name": ["b", "b"], "seed": 0, "score": [0.1, 0.2]}), ["name", "seed"])
    replace_rows(path, pd.DataFrame({"name": ["a"], "seed": 0, "score": 0.3}), ["name", "seed"])
    table = replace_rows(path, pd.DataFrame({"name": ["b"], "seed": 0, "score": 0.4}), ["name", "seed"])
    assert table.to_dict("list") == {"name": ["a", "b"], "seed": [0, 0], "score": [0.3, 0.4]}
    assert pd.read_csv(path).equals(table)
    assert has_rows(path, name="b", seed=0) and not has_rows(path, name="b", seed=1)
