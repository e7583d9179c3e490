"""A pipeline that is killed and restarted gives equal results; `python benchmark/kills.py` is the long form of this test."""

from pathlib import Path

import kills
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
def test_three_kills_do_not_change_the_results(tmp_path):
    table = kills.kill_and_resume(tmp_path / "project", 3, "train@adk-hetacumn", 25.0)
    assert len(table) == 3 and table["resumed"].all() and table["equal"].all()
    assert (table["stage"] != "none").any()


def test_the_stages_at_work_are_read_off_what_was_said():
    said = "3 stages to run\nem@adk: started\ntrain@adk-x: started\nem@adk: 50%\nem@adk: done after 3 s\n"
    assert kills.at_work(said) == "train@adk-x" and kills.at_work("") == "none"
