"""benchmark/users.py: given poses have the stated error, each dataset has a baseline, and no measurement runs twice."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import users

from hetacumn.io.star import ANGLES, ORIGINS, read_table
from hetacumn.physics.rotations import distance_deg, from_euler

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not (ROOT / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
def test_the_poses_of_the_written_table_have_the_stated_median_error(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = {
        "datasets": {
            "toy": {"structure": "adk", "states": ["open"], "particles": 800, "box": 32, "pixel_A": 3.2, "shift_px": 1}
        }
    }
    known = users.Bench(settings, tmp_path, None).dataset("toy")
    table = read_table(users.write_posed(known, tmp_path / "posed.star", 2.0))
    rotations = from_euler(torch.tensor(table.particles[ANGLES].to_numpy(dtype=float))).float()
    errors = distance_deg(rotations, known.truth.rotations.float())
    assert float(errors.median()) == pytest.approx(2.0, abs=0.15)
    origins_A = torch.tensor(table.particles[ORIGINS].to_numpy(dtype=float)).float()
    torch.testing.assert_close(-origins_A, known.truth.shifts_A.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dataset", sorted({dataset for _, dataset in users.MEASURES.values()} - {"ring", "two-motions"}))
def test_each_dataset_has_one_baseline_of_its_size_and_snr(dataset, monkeypatch):
    monkeypatch.chdir(ROOT)
    row = users.baseline(dataset)
    assert row["method"] == "em" and 0.5 < row["accuracy"] <= 1 and row["train_seconds"] > 0


def test_a_measure_whose_rows_are_in_the_table_is_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(users, "use_one_thread", lambda: None)
    ran = []

    def measure(bench, dataset):
        ran.append(dataset)
        return {f"fixed_true_poses_{dataset}_accuracy": (0.98761, 0.99)}

    monkeypatch.setattr(users, "MEASURES", {"fixed_true_poses_toy": (measure, "toy")})
    options = ["--out", str(tmp_path), "--table", str(tmp_path / "table.csv")]
    for _ in range(2):
        users.main(options)
    assert ran == ["toy"] and "skipped" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.to_dict("records") == [{"quantity": "fixed_true_poses_toy_accuracy", "value": 0.9876, "needed": 0.99}]
