"""The lessons run top to bottom, and say what is so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
LESSONS = sorted((REPO / "notebooks/lessons").glob("*.ipynb"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`"),
]


def number(pattern: str, text: str) -> float:
    return float(re.search(pattern, text).group(1))


@pytest.fixture(scope="module", params=LESSONS, ids=lambda path: path.stem)
def lesson(request, tmp_path_factory) -> tuple[str, dict, str]:
    """Name, executed notebook and what it printed."""
    out = tmp_path_factory.mktemp("lesson") / request.param.name
    command = [sys.executable, "-m", "hetacumn.run", str(request.param), "-o", str(out)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return request.param.stem, json.loads(out.read_text()), ran.stdout


def test_a_lesson_runs_draws_and_asks(lesson):
    _, notebook, _ = lesson
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert "**Try it.**" in text and "<details><summary>Answer</summary>" in text and "**To read on.**" in text


def test_what_a_lesson_prints_is_what_its_text_says(lesson):
    name, _, printed = lesson
    if name == "2_image_formation":
        assert number(r"they differ by (\S+) %", printed) < 3
    elif name == "3_poses":
        assert number(r"(\S+) % are nearer than 30", printed) < 1.5
        assert number(r"largest difference: (\S+) of", printed) < 1e-5
        assert number(r"median error (\S+)°", printed) < 15 and number(r"(\d+) % within 20", printed) > 80
    else:
        pytest.fail(f"no claim of {name} is checked")
