"""Build the site: README, guides, lessons, result notebooks and API reference as static pages without requests to other hosts.

The script writes the source pages into results/site/source: the README, CONTRIBUTING, CHANGELOG, the guides of docs/, the
notebooks (the executed copy in results/ where it exists, else the committed notebook), one page for each sub-package and
module, and every file that a page links to. Sphinx renders the pages into results/site/html. The script then checks that each
link has a target and that no page loads anything from another host. Usage: python scripts/docs.py
"""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from sphinx.cmd.build import build_main

import hetacumn

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = {  # caption in the menu → notebook → its executed copy in results/
    "Lessons": {f"lessons/{name}": f"lessons/{name}" for name in
                ("1_tour", "2_image_formation", "3_poses", "4_two_tasks", "5_how_right",
                 "6_resolution")},
    "Pipeline": {
        "pipeline/1_simulate": "adk/particles/1_simulate", "pipeline/2_train": "adk/hetacumn/2_train",
        "pipeline/3_predict": "adk/hetacumn/3_predict", "pipeline/4_reconstruct": "adk/hetacumn-refined/maps/4_reconstruct",
        "pipeline/5_evaluate": "adk/evaluation/5_evaluate", "pipeline/6_figures": "6_figures",
    },
    "Real data": {"real/1_download": "empiar-10180/1_download", "real/2_prepare": "real-twin/prepared/2_prepare",
                  "real/3_report": "real-twin/3_report", "real/4_compare": "compared/4_compare",
                  "real/5_motion": "real-twin/refined/motion_1/5_motion"},
    "Benchmark": {"benchmark/1_program": "benchmark/adk-snr100-3k/relion/1_program",
                  "benchmark/2_tables": "benchmark/2_tables", "benchmark/3_convergence": "convergence/3_convergence"},
    "Exploration": {"explore": "explore"},
}  # fmt: skip
GUIDES = [f"docs/{name}" for name in (
    "own_particles", "settings", "checking_results", "other_programs", "method", "results", "benchmark", "published_data",
    "gpus_and_clusters", "speed",
)]  # fmt: skip
PROJECT = ["CONTRIBUTING", "CHANGELOG"]
PAGES = {f"{name}.md" for name in GUIDES + PROJECT}
NOT_RUN = "```{note}\nThis notebook is shown without results: it was not executed before the site was built.\n```"
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def main(site: Path) -> int:
    """Build the site in a folder from the content of results/; return the exit status."""
    if problems := page_list_problems():
        return _report(problems)
    shutil.rmtree(site, ignore_errors=True)
    write_pages(site / "source")
    options = ["-q", "-W", "--keep-going", "-j", "auto", "-c", str(ROOT / "docs")]
    if status := build_main([*options, str(site / "source"), str(site / "html")]):
        return status
    status = _report(link_problems(site / "html"))
    print(f"The site is {site / 'html/index.html'}")
    return status


def _report(problems: list[str]) -> int:
    """Print each problem as an error; return the exit status."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def page_list_problems(root: Path = ROOT) -> list[str]:
    """List the pages of the site without a file, and the Markdown files of the root folder and of docs/ without a page."""
    files = {path.relative_to(root).as_posix() for folder in ("", "docs") for path in (root / folder).glob("*.md")}
    missing = [f"{name}: no such file; expected every page of PAGES in scripts/docs.py" for name in sorted(PAGES - files)]
    unlisted = [f"{name}: not a page of the site; expected it in GUIDES or PROJECT of scripts/docs.py"
                for name in sorted(files - PAGES - {"README.md"})]  # fmt: skip
    return missing + unlisted


def write_pages(source: Path) -> None:
    """Write the source pages for Sphinx, and copy the files that they link to, in the folder layout of the repository."""
    for notebooks in CHAPTERS.values():
        for name, copy in notebooks.items():
            committed, executed = ROOT / f"notebooks/{name}.ipynb", ROOT / f"results/{copy}.ipynb"
            notebook = nbformat.read(executed if executed.exists() else committed, as_version=4)
            if not executed.exists():
                notebook.cells.insert(1, nbformat.v4.new_markdown_cell(NOT_RUN))
            page = source / f"notebooks/{name}.ipynb"
            page.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, page)
    write_api_pages(source / "api")
    for name in GUIDES + PROJECT:
        _put(source / f"{name}.md", _with_site_links((ROOT / f"{name}.md").read_text(), source, Path(name).parent))
    contents = [_toctree(GUIDES, "Guides")]
    contents += [_toctree([f"notebooks/{name}" for name in notebooks], caption) for caption, notebooks in CHAPTERS.items()]
    contents += [_toctree(["api/index"], "Reference"), _toctree(PROJECT, "Project")]
    _put(source / "index.md", _with_site_links((ROOT / "README.md").read_text(), source) + "\n" + "\n".join(contents))


def write_api_pages(folder: Path) -> None:
    """Write the API reference: an index of the sub-packages, one page for each sub-package, and one page for each module."""
    packages = subpackages()
    for package, modules in packages.items():
        listed = "\n".join([".. toctree::", "   :hidden:", "", *(f"   {name}" for name in modules)])
        lines = [f"- :doc:`{name} <{name}>`: {_sentence(name)}" for name in modules]
        _put(folder / f"{package}.rst", "\n\n".join([_module_page(package), "\n".join(lines), listed]) + "\n")
        for name in modules:
            _put(folder / f"{name}.rst", _module_page(name))
    _put(folder / "hetacumn.rst", _module_page("hetacumn"))
    index = "".join(f"- [{name}]({name}.rst): {_sentence(name)}\n" for name in ("hetacumn", *packages))
    _put(folder / "index.md", f"# API reference\n\n{index}{_toctree(['hetacumn', *packages])}")


def subpackages() -> dict[str, list[str]]:
    """Return the modules of each sub-package of hetacumn, without `__main__` modules, which run when they are imported."""
    packages = [f"hetacumn.{one.name}" for one in pkgutil.iter_modules(hetacumn.__path__) if one.ispkg]
    return {package: [f"{package}.{one.name}" for one in pkgutil.iter_modules(import_module(package).__path__)
                      if one.name != "__main__"] for package in packages}  # fmt: skip


def _module_page(name: str) -> str:
    return f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n"


def _sentence(name: str) -> str:
    """Return the first line of a module's docstring."""
    return (import_module(name).__doc__ or "").strip().splitlines()[0]


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _toctree(pages: list[str], caption: str = "") -> str:
    options = [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", ":hidden:", *options, "", *pages, "```", ""])


def _with_site_links(text: str, source: Path, folder: Path = Path()) -> str:
    """Point the relative links of a Markdown text in ``folder`` of the project to pages of the site; copy other linked files.

    A link to a module or a sub-package gets its API page as target, a link to the README the front page.
    """

    def with_site_target(link: re.Match) -> str:
        begin, target, anchor, end = link.groups(default="")
        if "://" in target:
            return link[0]
        file = os.path.normpath(folder / target)
        if file == "README.md":
            target = os.path.relpath("index.md", folder)
        elif re.fullmatch(r"hetacumn/[\w/]*(\.py)?", file):
            module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            target = os.path.relpath(f"api/{module}.rst", folder)
        elif file not in PAGES and not (source / file).exists():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, source / file)
        return f"{begin}{target}{anchor}{end}"

    return LINK.sub(with_site_target, text)


@dataclass
class Page(HTMLParser):
    """The links, the loaded files and the anchors of an HTML page."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text())
        return page

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if given.get("href"):
            linked = tag == "a" or given.get("rel") in ("next", "prev", "index", "search", "author", "copyright")
            (self.links if linked else self.loads).append(given["href"])
        self.loads += [given[name] for name in ("src", "data", "poster") if given.get(name) and tag != "a"]


def link_problems(html: Path) -> list[str]:
    """List the links within the site that have no target, and the files that pages or style sheets load from other hosts."""
    pages = {path.resolve(): Page.read(path) for path in html.rglob("*.html")}
    problems = []
    for path, page in pages.items():
        name = path.relative_to(html.resolve())
        problems += [f"{name}: loads {url}; expected a file of the site" for url in page.loads if _is_elsewhere(url)]
        for url in (url for url in page.links + page.loads if not urlsplit(url).scheme and not _is_elsewhere(url)):
            parts = urlsplit(url)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                problems.append(f"{name}: link to {url}; expected a file of the site")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"{name}: link to {url}; expected an anchor of that page")
    for path in html.rglob("*.css"):
        loads = re.findall(r"""(?:url\(|@import\s)["'\s]*([^"')\s]+)""", path.read_text())
        name = path.relative_to(html)
        problems += [f"{name}: loads {url}; expected a file of the site" for url in loads if _is_elsewhere(url)]
    return problems


def _is_elsewhere(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https", "ftp", "ws", "wss") or url.startswith("//")


if __name__ == "__main__":
    sys.exit(main(ROOT / "results/site"))
