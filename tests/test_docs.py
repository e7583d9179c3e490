"""The site builds without a warning, its links have targets, search finds the guides, and no page loads from another host."""

import html as markup
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints
from urllib.parse import quote, urlsplit

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from sphinx.pycode import ModuleAnalyzer

import docs
import hetacumn
from hetacumn.baselines.cryodrgn import CryodrgnConfig
from hetacumn.baselines.relion import RelionConfig
from hetacumn.compute.launching import DeviceRequest
from hetacumn.prediction.request import PredictionRequest

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_SETTINGS = (
    hetacumn.TrainConfig, hetacumn.Preprocessing, hetacumn.Simulation, PredictionRequest, DeviceRequest, CryodrgnConfig,
    RelionConfig,
)  # fmt: skip
FIRST_HITS = {
    "mask": "docs/settings.html",
    "memory": "docs/settings.html",
    "number of classes": "docs/settings.html",
    "settings": "docs/settings.html",
    "resume": "docs/own_particles.html",
    "cryoSPARC": "docs/other_programs.html",
    "resolution": "docs/checking_results.html",
    "junk": "docs/checking_results.html",
    "GPU": "docs/gpus_and_clusters.html",
    "citation": "index.html",
    "TrainConfig": "api/hetacumn.network.config.html",
}


def test_every_notebook_is_in_the_site():
    listed = {f"{name}.ipynb" for notebooks in docs.CHAPTERS.values() for name in notebooks}
    here = {
        path.relative_to(ROOT / "notebooks").as_posix()
        for path in (ROOT / "notebooks").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    assert listed == here


def test_every_guide_is_in_the_site():
    assert docs.page_list_problems() == []


def test_a_missing_and_an_unlisted_guide_are_errors(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in docs.PAGES - {"docs/settings.md"} | {"docs/new.md", "README.md"}:
        (tmp_path / name).write_text("# Title")
    missing, unlisted = docs.page_list_problems(tmp_path)
    assert missing.startswith("docs/settings.md: no such file; expected")
    assert unlisted.startswith("docs/new.md: not a page of the site; expected")


def test_the_guide_repeats_the_python_lines_of_the_readme():
    readme, guide = (re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
                     for name in ("README.md", "docs/own_particles.md"))  # fmt: skip
    assert readme == guide != []


def test_the_reference_lists_every_module_of_the_package_once():
    here = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in (ROOT / "hetacumn").rglob("*.py")}
    packages = docs.subpackages()
    listed = ["hetacumn", *packages, *(name for modules in packages.values() for name in modules)]
    expected = {name.removesuffix(".__init__") for name in here if not name.endswith("__main__")}
    assert sorted(listed) == sorted(expected)


def settings_classes(kinds: tuple[type, ...] = PUBLIC_SETTINGS) -> Iterator[type]:
    """The public settings dataclasses and the dataclasses of their fields."""
    for kind in kinds:
        yield kind
        yield from settings_classes(tuple(hint for hint in get_type_hints(kind).values() if is_dataclass(hint)))


SETTINGS_CLASSES = sorted(set(settings_classes()), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", SETTINGS_CLASSES, ids=lambda kind: kind.__name__)
def test_every_field_of_the_settings_has_a_description(kind):
    """In the docstring of its class or of a base class (``field`` or an Attributes section), or in a ``#:`` comment."""
    text = "\n".join(base.__doc__ or "" for base in kind.__mro__ if base is not object)
    described = set(re.findall(r"``(\w+)``", text)) | set(re.findall(r"^ +(\w+)(?: \(.*\))?: ", text, re.MULTILINE))
    described |= {name for owner, name in ModuleAnalyzer.for_module(kind.__module__).find_attr_docs() if owner == kind.__name__}
    assert [field.name for field in fields(kind) if field.name not in described] == []


@pytest.mark.parametrize(
    "page, problem",
    [
        ('<a href="there.html#spot">', None),
        ('<a href="https://example.org">', None),
        ('<img src="data:image/png;base64,AA=="><a href="#top" id="top">', None),
        ('<a href="absent.html">', "link to absent.html; expected a file"),
        ('<a href="there.html#absent">', "link to there.html#absent; expected an anchor"),
        ('<img src="absent.png">', "link to absent.png; expected a file"),
        ('<script src="https://example.org/x.js"></script>', "loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads //example.org/x.css"),
    ],
)
def test_a_link_without_target_and_another_host_are_problems(tmp_path, page, problem):
    (tmp_path / "there.html").write_text('<p id="spot">')
    (tmp_path / "page.html").write_text(page)
    found = docs.link_problems(tmp_path)
    assert (found == []) if problem is None else (len(found) == 1 and problem in found[0])


def test_a_style_sheet_that_loads_from_another_host_is_a_problem(tmp_path):
    (tmp_path / "style.css").write_text("a { background: url(x.png) } @import 'https://example.org/font.css';")
    (problem,) = docs.link_problems(tmp_path)
    assert problem.startswith("style.css: loads https://example.org/font.css; expected")


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The built site, with the executed notebooks of results/ where they exist."""
    folder = tmp_path_factory.mktemp("site")
    assert docs.main(folder) == 0
    return folder / "html"


@pytest.mark.slow
def test_the_site_has_its_pages_and_its_formulas(html):
    for page in ("index.html", "CONTRIBUTING.html", "notebooks/lessons/1_tour.html", "notebooks/explore.html",
                 "api/hetacumn.network.html", "api/hetacumn.network.model.html"):  # fmt: skip
        assert (html / page).is_file()
    assert "<math" in (html / "notebooks/lessons/2_image_formation.html").read_text()


@pytest.mark.slow
def test_the_menu_has_the_title_of_every_notebook(html):
    page = (html / "index.html").read_text()
    for notebooks in docs.CHAPTERS.values():
        for name, (title, _) in notebooks.items():
            assert f'href="notebooks/{name}.html">{markup.escape(title)}</a>' in page


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETTINGS_CLASSES, ids=lambda kind: kind.__name__)
def test_the_reference_shows_every_field_of_the_settings_outside_the_signature(html, kind):
    page = (html / f"api/{kind.__module__}.html").read_text()
    shown = set(re.findall(r'(?:<code[^>]*>|descname">)<span class="pre">(\w+)</span>', page))
    assert [field.name for field in fields(kind) if field.name not in shown] == []


@pytest.mark.slow
@pytest.mark.parametrize("query, page", FIRST_HITS.items())
def test_the_first_hit_of_a_search_is_the_page_that_answers_it(html, browser, query, page):
    browser.get(f"file://{html}/search.html?q={quote(query)}")
    (first, *_) = WebDriverWait(browser, 30).until(lambda it: it.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    assert urlsplit(first.get_dom_attribute("href")).path == page


@pytest.mark.slow
def test_a_search_finds_a_word_of_a_notebook_and_no_page_asks_another_host(html, browser):
    browser.get(f"file://{html}/search.html?q=defocus")
    lesson = "#search-results a[href^='notebooks/lessons/2_image_formation.html']"
    WebDriverWait(browser, 30).until(lambda it: it.find_elements(By.CSS_SELECTOR, lesson))
    for page in ("search.html", "index.html", "notebooks/lessons/2_image_formation.html"):
        browser.get(f"file://{html}/{page}")
        requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in requests if one["method"] == "Network.requestWillBeSent"]
        assert asked and [url for url in asked if urlsplit(url).scheme not in ("file", "data", "blob", "chrome")] == []
