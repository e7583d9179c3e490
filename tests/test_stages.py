"""Every stage of every dvc.yaml depends on all code that it runs: the import closure of its notebooks and modules.

The test reads imports from the source, without running it. Plots count only if a stage declares outputs under figures/, because
a change to a figure does not change trained models. The ``__init__`` of a package counts if it contains more than a docstring.
"""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import grimp
import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = sorted(path.relative_to(ROOT).as_posix() for depth in ("", "*/", "*/*/") for path in ROOT.glob(f"{depth}dvc.yaml"))
PLOTS = "hetacumn.plots"
COMMAND = re.compile(r"python -m (hetacumn[\w.]*)(?: (\S+\.ipynb))?")


@dataclass(frozen=True)
class Stage:
    """The modules or notebooks that a stage runs, the paths on which it depends, and whether it writes figures."""

    name: str
    runs: tuple[str, ...]
    deps: tuple[str, ...]
    writes_figures: bool


@cache
def import_graph() -> grimp.ImportGraph:
    """Return all imports between modules of the package, including imports within functions."""
    return grimp.build_graph("hetacumn", exclude_type_checking_imports=True, cache_dir=None)


def read_stages(path: Path) -> list[Stage]:
    """Return the stages of a dvc.yaml; the items of a ``foreach`` list are filled into the commands."""
    return [read_stage(name, written) for name, written in yaml.safe_load(path.read_text())["stages"].items()]


def read_stage(name: str, written: dict) -> Stage:
    items, stage = written.get("foreach"), written.get("do", written)
    commands = [stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"]
    if isinstance(items, list):
        commands = [command.replace("${item}", str(item)) for command in commands for item in items]
    outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]
    writes_figures = any(PurePosixPath(out).parts[0] == "figures" for out in outs)
    return Stage(name, tuple(run_by(command) for command in commands), tuple(stage["deps"]), writes_figures)


def run_by(command: str) -> str:
    """Return the notebook that a command executes, or the module that it runs."""
    found = COMMAND.match(command)
    assert found, f"{command}: expected python -m hetacumn.<module>, which this test can follow"
    return found[2] or found[1]


def imported_by_notebook(path: Path) -> set[str]:
    """Return the modules of the package that the code cells of a notebook name."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    lines = [line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(("%", "!"))]
    return set().union(*(modules_named(node) for node in ast.walk(ast.parse("\n".join(lines)))))


def modules_named(node: ast.AST) -> set[str]:
    """Return the modules of the package that an import or an attribute ``hetacumn.x`` names."""
    match node:
        case ast.Import(names):
            return {alias.name for alias in names if belongs(alias.name, "hetacumn")}
        case ast.ImportFrom(module=str(module), names=names) if belongs(module, "hetacumn"):
            return {module} | {module_of(module, alias.name) for alias in names}
        case ast.Attribute(value=ast.Name("hetacumn"), attr=name):
            return {module_of("hetacumn", name)}
        case _:
            return set()


def module_of(package: str, name: str) -> str:
    """Return the module ``package.name``, or the module that defines this name of ``package``."""
    if f"{package}.{name}" in import_graph().modules:
        return f"{package}.{name}"
    defined_in = getattr(getattr(importlib.import_module(package), name), "__module__", None) or package
    return defined_in if belongs(defined_in, "hetacumn") else package


def belongs(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@cache
def closure(runs: str, writes_figures: bool) -> frozenset[str]:
    """Return all modules that a notebook or a module imports, directly or through others."""
    waiting = imported_by_notebook(ROOT / runs) if runs.endswith(".ipynb") else {runs}
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in found or (belongs(module, PLOTS) and not writes_figures):
            continue
        found.add(module)
        waiting |= import_graph().find_modules_directly_imported_by(module)
        parts = module.split(".")
        waiting |= {".".join(parts[:depth]) for depth in range(1, len(parts))}
    return frozenset(module for module in found if holds_code(module))


@cache
def source_of(module: str) -> PurePosixPath:
    """Return the file of a module, relative to the project."""
    path = PurePosixPath(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


@cache
def holds_code(module: str) -> bool:
    """Return whether a module has statements other than strings; ``hetacumn`` itself only loads other modules by name."""
    if module == "hetacumn":
        return False
    body = ast.parse((ROOT / source_of(module)).read_text()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def missing(stage: Stage) -> set[str]:
    """Return the files of a stage's import closure that are not dependencies and not in a folder that is one."""
    needed = set().union(*(closure(runs, stage.writes_figures) for runs in stage.runs))
    return {str(source_of(module)) for module in needed if not is_covered(source_of(module), stage.deps)}


def is_covered(path: PurePosixPath, deps: tuple[str, ...]) -> bool:
    return any(PurePosixPath(dep) in (path, *path.parents) for dep in deps)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_stage_depends_on_all_code_that_it_imports(pipeline):
    lost = [f"stage {stage.name} does not depend on {', '.join(sorted(found))}"
            for stage in read_stages(ROOT / pipeline) if (found := missing(stage))]  # fmt: skip
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_stage_depends_on_its_notebooks(pipeline):
    for stage in read_stages(ROOT / pipeline):
        notebooks = {runs for runs in stage.runs if runs.endswith(".ipynb")}
        assert all((ROOT / notebook).is_file() for notebook in notebooks), stage.name
        written = {dep.replace("${item}", PurePosixPath(runs).stem) for dep in stage.deps for runs in stage.runs}
        assert notebooks <= written, stage.name


def test_a_removed_dependency_is_detected(tmp_path):
    """The test removes one dependency on code at a time from a copy of the main pipeline."""
    text = (ROOT / "dvc.yaml").read_text()
    for stage in read_stages(ROOT / "dvc.yaml"):
        needed = {source_of(module) for runs in stage.runs for module in closure(runs, stage.writes_figures)}
        covering = [dep for dep in stage.deps if any(is_covered(path, (dep,)) for path in needed)]
        assert covering, f"stage {stage.name} depends on no code"
        for dep in covering[:3]:
            written = yaml.safe_load(text)
            changed = written["stages"][stage.name]
            changed.get("do", changed)["deps"].remove(dep)
            (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
            after = {one.name: missing(one) for one in read_stages(tmp_path / "dvc.yaml")}
            only = {str(path) for path in needed if is_covered(path, (dep,))}
            assert only <= after[stage.name] and not only & missing(stage), (stage.name, dep)


def test_imports_of_a_notebook_are_found_however_they_are_written(tmp_path):
    cells = ["%matplotlib inline\nimport numpy as np\nfrom hetacumn.io.star import read_table",
             "from hetacumn import plots\nfrom hetacumn.common import project",
             "if True:\n    from hetacumn.io.mrc import read_volumes",
             "import hetacumn\nhetacumn.physics.fsc.fsc(1, 2)"]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells.append(nbformat.v4.new_markdown_cell("from hetacumn.physics.rotations import align"))
    nbformat.write(notebook, tmp_path / "a.ipynb")
    modules = {"io.star", "plots", "common", "common.project", "io.mrc", "physics"}
    assert imported_by_notebook(tmp_path / "a.ipynb") == {"hetacumn", *(f"hetacumn.{name}" for name in modules)}


def test_plots_count_only_if_a_stage_writes_figures():
    train = closure("notebooks/pipeline/2_train.ipynb", False)
    assert not any(belongs(module, PLOTS) for module in train)
    assert PLOTS in closure("notebooks/pipeline/6_figures.ipynb", True)
    writes_figures = {stage.name: stage.writes_figures for stage in read_stages(ROOT / "dvc.yaml")}
    assert writes_figures["figures"] and not writes_figures["train"] and not writes_figures["evaluate"]


def test_a_closure_follows_imports_within_functions_and_through_other_modules():
    found = closure("notebooks/pipeline/2_train.ipynb", False)
    assert {"hetacumn.io.star", "hetacumn.common.errors", "hetacumn.particles.run_paths"} <= found
    assert closure("hetacumn.run.timings", False) >= {
        "hetacumn.run.timings",
        "hetacumn.common.project",
        "hetacumn.common.errors",
    }
