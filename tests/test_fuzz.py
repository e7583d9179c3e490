"""Corrupted input loads or raises HetacumnError; `python benchmark/fuzz.py` is the long form of this test."""

import fuzz
import pytest

KINDS = ["MRC stack", "RELION 3.1 STAR", "RELION 3.0 STAR", "cryoSPARC .cs", "CSV beside a stack", "settings"]


def test_every_kind_is_known(tmp_path):
    assert list(fuzz.seeds(tmp_path)) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_corrupted_input_raises_only_hetacumn_error(kind):
    found = fuzz.fuzz(kind, 80, seed=1)
    assert found["examples"] == []
    assert found["refused"] > 20 and found["loaded"] > 0  # else the corruption had no effect, or no case loads
    assert found["loaded"] + found["refused"] == found["cases"]


def test_another_error_is_counted_as_a_fault(monkeypatch):
    def reads(path):
        if "spoilt" in path.read_text():
            raise ValueError("of its own")

    monkeypatch.setattr(fuzz, "TEXT", (lambda draw, raw: raw + b"spoilt",))
    monkeypatch.setattr(fuzz, "load", reads)
    found = fuzz.fuzz("settings", 3)
    assert found["faults"] == 3 and "ValueError" in found["examples"][0]
