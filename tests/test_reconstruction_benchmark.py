"""The benchmark of reconstruction writes one row per measurement, with its own memory."""

from pathlib import Path

import pandas as pd
import pytest
import reconstruction

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
def test_the_table_has_a_row_per_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(reconstruction, "LARGEST", 400)
    table = tmp_path / "table.csv"
    common = ["--boxes", "64", "--out", str(tmp_path), "--table", str(table), "--threads", "1", "--device", "cpu"]
    reconstruction.main(["--images", "400", *common])
    assert pd.read_csv(table)["what"].tolist() == sorted(reconstruction.MEASUREMENTS)
    stack = reconstruction.make_stack(tmp_path, 1000, 64)
    row = reconstruction.measure("halves", 1000, 64, tmp_path, reconstruction.pick_device("cpu"))
    assert stack.name == "copies1000.star" and row["images_per_second"] > 10
