"""The table of the speed suite: complete rows, fractions of the peak from 0 to 1, and replacement of the rows of a device."""

import pandas as pd
import pytest
import torch
from speed import speed


@pytest.fixture(scope="module")
def suite():
    return speed.Suite(torch.device("cpu"), venv="")


def test_parts_are_measured_against_the_machines_own_peak(suite, capsys):
    basis, data = suite.stack(32, 600)
    assert speed.signal_nats(data, 0.22 * 32) == pytest.approx(speed.NATS, rel=0.1)
    suite.slices(32, basis, data)
    suite.preprocessing(32, 30)
    suite.star(32, 500)
    table = pd.DataFrame(suite.rows[-3:])
    assert list(table.columns) == speed.COLUMNS and (table["particles_per_second"] > 0).all()
    assert table["fraction_of_peak"].between(0, 1).all() and (table["threads"] == torch.get_num_threads()).all()
    assert "% of peak" in capsys.readouterr().out


def test_flops_of_a_matrix_product():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert speed.flops_of(lambda: a @ b) == 2 * 3 * 5 * 7


def test_rows_of_a_device_are_replaced_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "FOLDER", tmp_path)
    row = dict.fromkeys(speed.COLUMNS, 1)
    speed.write_rows([row | {"device": "cpu"}, row | {"device": "cpu", "what": "other"}])
    speed.write_rows([row | {"device": "gpu"}])
    speed.write_rows([row | {"device": "cpu", "what": "third"}])
    table = pd.read_csv(tmp_path / "results.csv")
    assert sorted(zip(table["device"], table["what"], strict=True)) == [("cpu", "third"), ("gpu", "1")]
