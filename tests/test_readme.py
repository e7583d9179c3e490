"""Commands, settings, names and links in README, guides, CONTRIBUTING and CHANGELOG exist, and the Python block runs."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import get_type_hints

import kills
import pytest
import typer
import yaml

import docs
import hetacumn
from hetacumn.cli.main import app
from hetacumn.common.project import SECTIONS
from hetacumn.reconstruction.maps import Reconstruction
from hetacumn.run.notebook import notebook_parameters
from hetacumn.run.settings import collect

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", *sorted(docs.PAGES))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
WRITTEN_SETTING = re.compile(r"(?:`|--set |\+\+)((?:train|stack)(?:\.\w+)+)(?=[`=:])")
SETTINGS = {"train": hetacumn.TrainConfig, "stack": hetacumn.Preprocessing}
READ_BY_TRAINING_ALONE = {"stack.trained_share"}
COMMANDS = typer.main.get_command(app).commands
QUICK = kills.QUICK | {"alone_steps": 40, "joint_epochs": 1.0, "batch": 50, "checkpoint_seconds": 60.0}
TOY = {"structure": "adk", "states": ["open", "closed"], "particles": 120, "box": 32, "pixel_A": 3.2, "snr": 1.0}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def command_lines(text: str) -> Iterator[str]:
    """Yield the lines of fenced shell blocks and of blocks without a language, except comments; then the inline code."""
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh"):
            yield from (line.strip() for line in block.replace("\\\n", " ").splitlines() if not line.strip().startswith("#"))
    yield from (" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text)))


def hetacumn_words(line: str) -> list[str] | None:
    """Return the words of a command line after `hetacumn`, or None if the line is another command."""
    found = re.match(r"(?:srun )?hetacumn (.*)", line)
    return shlex.split(found[1], comments=True) if found else None


ALL_LINES = [(path, line) for path in PAGES for line in command_lines(path.read_text())]
OUR_COMMANDS = [(path, line) for path, line in ALL_LINES if hetacumn_words(line) and hetacumn_words(line)[0].islower()]
MODULE_COMMANDS = [(path, line) for path, line in ALL_LINES if re.search(r"-m hetacumn", line)]


def test_the_readme_names_every_command():
    readme = [hetacumn_words(line)[0] for path, line in OUR_COMMANDS if path.name == "README.md"]
    assert set(readme) == set(COMMANDS)


@pytest.mark.parametrize("line", sorted({line for _, line in OUR_COMMANDS}))
def test_a_command_line_parses(line, tmp_path, monkeypatch):
    name, *words = hetacumn_words(line)
    command = COMMANDS[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= {*options, "--help"}
    if words and words != ["--help"]:
        context = command.make_context(name, words)
        (tmp_path / "my.yaml").write_text("{}")
        monkeypatch.chdir(tmp_path)
        collect(context.params.get("config"), context.params.get("set_") or [], {}, SECTIONS)


@pytest.mark.parametrize("line", sorted({line for _, line in MODULE_COMMANDS}))
def test_a_module_in_a_command_line_exists_and_its_notebook_has_the_parameters(line):
    module = re.search(r"-m (hetacumn[\w.]*)", line)[1]
    found = find_spec(module)
    assert found is not None and (found.submodule_search_locations is None or find_spec(f"{module}.__main__") is not None)
    notebook = re.search(r"\S+\.ipynb", line)
    if notebook:
        assert set(re.findall(r" -p (\w+)", line)) <= set(notebook_parameters(ROOT / notebook[0]))


def test_the_readme_shows_how_to_run_a_users_own_notebook():
    assert any("python -m hetacumn.run NOTEBOOK -p" in line for path, line in MODULE_COMMANDS if path.name == "README.md")


def test_scripts_and_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for _, line in ALL_LINES]
    scripts = {found for line in lines for found in re.findall(r"python ((?:benchmark|scripts)/\S+\.py)", line)}
    targets = {found for line in lines for found in re.findall(r"^make ([a-z][\w-]*)", line)}
    assert {script for script in scripts if not (ROOT / script).is_file()} == set()
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    assert scripts and targets >= {"repro", "test", "lint", "lab"}


def setting_names(kind: type, before: str) -> Iterator[str]:
    """Yield the dotted names of the fields of a settings dataclass and of its nested dataclasses."""
    for name, hint in get_type_hints(kind).items():
        yield f"{before}{name}"
        if is_dataclass(hint):
            yield from setting_names(hint, f"{before}{name}.")


KNOWN_SETTINGS = {name for section, kind in SETTINGS.items() for name in setting_names(kind, f"{section}.")}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_setting_that_a_page_names_exists(path, tmp_path):
    named = set(WRITTEN_SETTING.findall(path.read_text()))
    assert named - KNOWN_SETTINGS - READ_BY_TRAINING_ALONE == set()
    for written in re.findall(r"echo '([^']+)' > \w+\.yaml", path.read_text()):
        config = tmp_path / "my.yaml"
        config.write_text(written)
        collect(config, [], {}, SECTIONS)


def test_the_pattern_of_settings_finds_them():
    text = "`train.alone_steps`, `--set train.ab_initio.batch=3`, `-S ++stack.box=64` and `train.x: faint`, not train.py"
    assert WRITTEN_SETTING.findall(text) == ["train.alone_steps", "train.ab_initio.batch", "stack.box", "train.x"]
    assert {"train.alone_steps", "train.ab_initio.batch", "stack.box"} <= KNOWN_SETTINGS


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_named_code_is_in_its_module(path):
    text = path.read_text()
    links = [target for _, target, _, _ in docs.LINK.findall(text) if "://" not in target]
    assert [target for target in links if not (path.parent / target).exists()] == []
    for name, target in re.findall(r"\[`([A-Z]\w*)(?:\.\w+)*`\]\(([^)#]+\.py)\)", text):
        module = ".".join((path.parent / target).resolve().relative_to(ROOT).with_suffix("").parts)
        if module.startswith("hetacumn."):
            assert hasattr(importlib.import_module(module), name), f"{name} is not in {target}"


def test_the_citation_and_the_changelog_have_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hetacumn.__version__
    assert re.search(rf"^## {re.escape(hetacumn.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def python_block() -> str:
    """Return the Python block of the README."""
    (block,) = [block for language, block in FENCE.findall((ROOT / "README.md").read_text()) if language == "python"]
    return block


def test_the_python_block_has_five_statements_and_imports_hetacumn_alone():
    first, *others = ast.parse(python_block()).body
    assert ast.unparse(first) == "import hetacumn" and len(others) == 4
    assert not any(isinstance(one, ast.Import | ast.ImportFrom) for one in others)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
def test_the_python_block_runs_as_printed(tmp_path, monkeypatch, capsys):
    """The code is that of the README; training gets small settings, because the defaults take minutes even on a toy."""
    hetacumn.simulate(TOY, tmp_path / "my", data_dir=ROOT / "data", progress=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hetacumn, "train", partial(hetacumn.train, **QUICK))
    exec(compile(python_block(), "README.md", "exec"), {})
    answer = hetacumn.open("results/mine")
    assert len(answer.predictions) == TOY["particles"]
    maps = Reconstruction.open("results/mine/maps")
    assert capsys.readouterr().out.splitlines()[-1] == str([one.resolution_A for one in maps.results])
