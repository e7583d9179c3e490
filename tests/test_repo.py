"""Rules of the repository: stripped notebooks, a lock file without URLs, and stages whose inputs exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import tables
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    path
    for folder in ("notebooks", "real", "benchmark")
    for path in ROOT.glob(f"{folder}/**/*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
)
STAGE_NOTEBOOKS = [path for path in NOTEBOOKS if path.parent.name in ("pipeline", "real", "benchmark")]
PIPELINES = sorted(path for depth in ("", "*/", "*/*/") for path in ROOT.glob(f"{depth}dvc.yaml"))
FIGURES = sorted(path for path in ROOT.glob("figures/**/*") if path.is_file())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")
def test_notebooks_are_committed_without_outputs():
    command = [sys.executable, "-m", "nbstripout", "--keep-id", "--verify", *map(str, NOTEBOOKS)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr + "run: make strip"


@pytest.mark.parametrize("path", STAGE_NOTEBOOKS, ids=name_of)
def test_a_stage_notebook_has_a_parameters_cell_and_stays_short(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert len(code) <= 15


def test_the_lock_pins_every_dependency_and_names_no_host():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
    wrong = [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert wrong == []
    pinned = {line.split("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra if not name.startswith("hetacumn[")]
    required = project["dependencies"] + extras
    assert {re.split(r"[=<>~! \[]", name)[0].lower() for name in required} <= pinned
    assert "torch==2.13.0" in lines


@pytest.mark.parametrize("pipeline", PIPELINES, ids=name_of)
def test_the_inputs_of_a_stage_exist_or_are_outputs_of_another_and_its_figures_are_in_git(pipeline):
    with Repo(str(ROOT)) as repo:
        stages = [stage for stage in repo.index.stages if stage.path_in_repo == name_of(pipeline)]
        made = {Path(out.fs_path) for out in repo.index.outs}
        read = {Path(dep.fs_path) for stage in stages for dep in stage.deps if dep.protocol == "local"}
        outs = [out for stage in stages for out in stage.outs]
        kept_in_git = {Path(out.fs_path) for out in outs if not out.use_cache and out.hash_info}  # of stages in dvc.lock
    lost = {path for path in read if not path.exists() and not made & {path, *path.parents}}
    if pipeline.parent == ROOT:
        lost |= {path for path in kept_in_git if not path.exists()}
    assert lost == set()


@pytest.mark.parametrize("path", FIGURES, ids=name_of)
def test_a_figure_is_small_enough_for_git(path):
    assert path.stat().st_size < 300_000


def test_params_are_valid_yaml():
    path = ROOT / "params.yaml"
    if not path.exists():
        pytest.skip("no params.yaml")
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def check(*command: str) -> None:
    """Run a checker of `make lint` on the repository; fail with what it prints."""
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_code_passes_the_linter():
    check(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", ".")


def test_the_code_is_formatted():
    check(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")


def test_imports_follow_the_layers():
    check(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")


@pytest.mark.slow
def test_the_code_passes_the_type_checker(tmp_path):
    check(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path))


def test_the_tables_of_the_pages_equal_the_csv_files():
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *tables.SOURCES], cwd=ROOT).returncode:
        pytest.skip("the CSV files have uncommitted changes")
    texts = {path: path.read_text() for path in tables.PAGES}
    assert {name for text in texts.values() for name in re.findall(r"<!-- table: (\w+) -->", text)} == set(tables.TABLES)
    assert [path.name for path, text in texts.items() if tables.filled(text) != text] == [], "run `python scripts/tables.py`"


def stages_of(pipeline: Path) -> dict[str, dict]:
    """Return the stages of a ``dvc.yaml`` as written, by name."""
    return {name: stage.get("do", stage) for name, stage in yaml.safe_load(pipeline.read_text())["stages"].items()}


def code_of(stage: dict) -> set[str]:
    return {name for name in stage["deps"] if name.startswith("hetacumn/")}


def same_work(command: str) -> list[str]:
    """Return the stages of the main pipeline that do the same work as a command."""
    notebook = re.search(r"notebooks/pipeline/(\w+)\.ipynb", command)
    if notebook is None:
        return []
    grade = re.search(r"-p grade (\w+)", command)
    training = ["em"] if "-p method em" in command else ["train"] if "-p start " in command else ["em", "train"]
    prediction = ["predict"] if grade is None else ["search"] if grade[1] == "searched" else ["grade"]
    work = {"1_simulate": ["simulate"], "2_train": training, "3_predict": prediction, "5_evaluate": ["evaluate"]}
    return work[notebook[1]]


@pytest.mark.parametrize("pipeline", [path for path in PIPELINES if path.parent != ROOT], ids=name_of)
def test_a_stage_depends_on_all_code_on_which_the_main_pipeline_depends_for_the_same_work(pipeline):
    main = stages_of(ROOT / "dvc.yaml")
    for name, stage in stages_of(pipeline).items():
        commands = [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]
        expected = set().union(*(code_of(main[work]) for command in commands for work in same_work(command)))
        assert expected - code_of(stage) == set(), name
