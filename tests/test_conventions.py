"""Conventions of the code: few parameters, short modules, small sub-packages."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hetacumn"
MOST_PARAMETERS, MOST_LINES, MOST_MODULES, MOST_SUBPACKAGES = 6, 300, 10, 16
MANY_OPTIONS = {
    "run/api.py",
    "cli/main.py",
    "cli/results.py",
}  # the Python API and the command: one keyword parameter for each option
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
SUBPACKAGES = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def parameter_counts(source: str) -> dict[str, int]:
    """Count the parameters of each function, by name and line, except ``self``, ``cls``, ``*`` and ``**`` parameters."""
    counts = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            counts[f"{node.name} (line {node.lineno})"] = len([name for name in names if name not in ("self", "cls")])
    return counts


def test_parameters_are_counted_without_self():
    source = "class A:\n    def f(self, a, /, b, *c, d=1, **e): ...\n\nasync def g(a): ..."
    assert parameter_counts(source) == {"f (line 2)": 3, "g (line 4)": 1}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - MANY_OPTIONS))
def test_no_function_has_many_parameters(module):
    counts = parameter_counts(MODULES[module].read_text())
    assert not {name: count for name, count in counts.items() if count > MOST_PARAMETERS}


def test_the_modules_with_many_options_exist():
    assert MANY_OPTIONS <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module):
    assert len(MODULES[module].read_text().splitlines()) <= MOST_LINES


def test_the_sub_packages_are_few():
    assert 0 < len(SUBPACKAGES) <= MOST_SUBPACKAGES


@pytest.mark.parametrize("folder", SUBPACKAGES, ids=lambda folder: folder.name)
def test_no_sub_package_has_many_modules(folder):
    names = [path.name for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(names) <= MOST_MODULES
