"""The lessons run from top to bottom, and their printed numbers support their text."""

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
    """Run a lesson and return its name, the executed notebook and its printed output."""
    out = tmp_path_factory.mktemp("lesson") / request.param.name
    command = [sys.executable, "-m", "hetacumn.run", str(request.param), "-o", str(out)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return request.param.stem, json.loads(out.read_text()), ran.stdout


def test_a_lesson_has_figures_exercises_and_further_reading(lesson):
    _, notebook, _ = lesson
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert "**Try it.**" in text and "<details><summary>Answer</summary>" in text and "**To read on.**" in text


def test_the_printed_numbers_of_a_lesson_support_its_text(lesson):
    name, _, printed = lesson
    if name == "1_tour":
        assert number(r"(\d+) % of all", printed) > 90 and number(r"pose error (\d+)°", printed) < 40
    elif name == "2_image_formation":
        assert number(r"left transform: (\S+) %", printed) < 3
    elif name == "3_poses":
        assert number(r"(\S+) % are nearer than 30", printed) < 1.5
        assert number(r"largest difference: (\S+) of", printed) < 1e-5
        assert number(r"median error (\S+)°", printed) < 15 and number(r"(\d+) % within 20", printed) > 80
    elif name == "4_two_tasks":
        names = (r"pose error \(°\)", "class_from_z", "view_from_z_deg", "view_chance_deg")
        (pose_off, pose_on), known, view, chance = (
            [float(word) for word in re.search(rf"{name}\s+(\S+)\s+(\S+)", printed).groups()] for name in names
        )
        assert pose_on < 60 < 90 < pose_off  # the pose task finds most poses, reconstruction alone does not
        assert known[1] > known[0] and known[1] > 0.93
        standard_error = 39 / 1500**0.5  # of the mean angle between random directions, sine-distributed, of 1,500 particles
        assert abs(chance[1] - view[1]) < 3 * 2**0.5 * standard_error
        of_class, of_axis = (
            [float(word) for word in re.search(rf"{name} \(%\)\s+(\S+)\s+(\S+)", printed).groups()]
            for name in ("class", "viewing axis")
        )
        assert of_class[1] > of_class[0] + 5 and of_axis[1] < of_axis[0]  # the shares of class and viewing axis in z
    elif name == "5_how_right":
        predicted, found = number(r"predicted accuracy (\S+),", printed), number(r"measured (\S+)\s", printed)
        assert abs(predicted - found) < 0.03
        assert number(r"with decoder feedback\s+(\S+)", printed) > 0.94 and number(r"exhaustive search\s+(\S+)", printed) > 0.95
    elif name == "6_resolution":
        assert number(r"cropped images: (\S+)°", printed) < 2
        found, true = number(r"poses of the cropped images: (\S+) Å", printed), number(r"true poses: (\S+) Å", printed)
        assert true <= found + 0.1 and found < 1.05 * true < 0.85 * 6.4
        assert abs(number(r"half maps: (\S+) Å", printed) - found) < 0.3
        assert number(r"8°: .* map resolves (\S+) Å", printed) > 1.3 * true
    else:
        pytest.fail(f"no claim of {name} is checked")
