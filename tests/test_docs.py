"""The site builds without a warning, its links arrive, it can be searched, and it asks nobody else."""

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import docs

ROOT = Path(__file__).resolve().parents[1]


def test_every_notebook_is_in_the_site():
    listed = {f"{name}.ipynb" for notebooks in docs.CHAPTERS.values() for name in notebooks}
    here = {
        path.relative_to(ROOT / "notebooks").as_posix()
        for path in (ROOT / "notebooks").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    assert listed == here
    guides = {path.relative_to(ROOT).as_posix() for folder in ("", "docs") for path in (ROOT / folder).glob("*.md")}
    assert docs.PAGES == guides - {"README.md"}


def test_the_reference_lists_every_module_of_the_package_once():
    here = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in (ROOT / "hetacumn").rglob("*.py")}
    packages = docs.subpackages()
    listed = ["hetacumn", *packages, *(name for modules in packages.values() for name in modules)]
    wanted = {name.removesuffix(".__init__") for name in here if not name.endswith("__main__")}
    assert sorted(listed) == sorted(wanted)


@pytest.mark.parametrize(
    "page, fault",
    [
        ('<a href="there.html#spot">', None),
        ('<a href="https://example.org">', None),
        ('<img src="data:image/png;base64,AA=="><a href="#top" id="top">', None),
        ('<a href="absent.html">', "links to absent.html, which is not there"),
        ('<a href="there.html#absent">', "has no such place"),
        ('<img src="absent.png">', "links to absent.png"),
        ('<script src="https://example.org/x.js"></script>', "loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads //example.org/x.css"),
    ],
)
def test_a_link_that_leads_nowhere_and_a_foreign_host_are_found(tmp_path, page, fault):
    (tmp_path / "there.html").write_text('<p id="spot">')
    (tmp_path / "page.html").write_text(page)
    found = docs.faults(tmp_path)
    assert (found == []) if fault is None else (len(found) == 1 and fault in found[0])


def test_a_style_sheet_that_asks_another_host_is_found(tmp_path):
    (tmp_path / "style.css").write_text("a { background: url(x.png) } @import 'https://example.org/font.css';")
    assert docs.faults(tmp_path) == ["style.css loads https://example.org/font.css"]


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The site, of the notebooks as they are here."""
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
def test_a_browser_finds_what_it_searches_and_asks_no_other_host(html, browser):
    browser.get(f"file://{html}/search.html?q=defocus")
    deadline, found = time.monotonic() + 30, ""
    while "image formation in the electron microscope" not in found and time.monotonic() < deadline:
        time.sleep(0.2)
        found = browser.execute_script("return document.getElementById('search-results').textContent")
    assert "image formation in the electron microscope" in found
    for page in ("search.html", "index.html", "notebooks/lessons/2_image_formation.html"):
        browser.get(f"file://{html}/{page}")
        requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in requests if one["method"] == "Network.requestWillBeSent"]
        assert asked and [url for url in asked if urlsplit(url).scheme not in ("file", "data", "blob", "chrome")] == []
