"""What all figures have in common: colours, names, sizes, and how they are saved."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from hetacumn.project import atomic_path

#: Okabe and Ito's colours, dark and light in turn.
CLASS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")

#: Name in figures, colour, hatch and line of every method, in the order in which they are drawn.
METHODS = {
    "relion": ("RELION", "#009E73", "xxxx", (0, (5, 2))),
    "cryodrgn2": ("cryoDRGN2", "#CC79A7", "", (0, (3, 1, 1, 1))),
    "drgnai": ("cryoDRGN-AI", "#882255", "oo", (0, (3, 1, 1, 1, 1, 1))),
    "drgnai-conf": ("cryoDRGN-AI, z by network", "#AA6688", "..", (0, (2, 2))),
    "em": ("K-class EM", "#9A9A9A", "", ":"),
    "amortized": ("amortized", "#E69F00", "....", (0, (1, 1))),
    "hetacumn-bare": ("HetACUMN, bare", "#56B4E9", "////", "--"),
    "hetacumn-encoder": ("HetACUMN, encoder alone", "#8FBBD9", "\\\\\\\\", (0, (4, 1, 1, 1))),
    "hetacumn": ("HetACUMN", "#0072B2", "", "-"),
    "hetacumn-refined": ("HetACUMN, refined", "#003A5C", "", "-."),
}
#: Names in figures and tables of this project's datasets; any other one has its own.
DATASETS = {
    "adk": "adenylate kinase",
    "ribosome": "ribosome",
    "spliceosome": "spliceosome",
    "small": "small motions",
    "unequal": "unequal classes",
}
WIDTH_IN = 7.2
DPI = 130


def in_order(present: set[str]) -> list[str]:
    """The methods that are present, in the order of :data:`METHODS`, a user's own after them."""
    return [method for method in METHODS if method in present] + sorted(present - METHODS.keys())


def style() -> None:
    """Set matplotlib to this project's style, for the whole session: 9 pt, ticks and legends 8 pt."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update({
        "figure.dpi": 100,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "hatch.linewidth": 0.6,
        "lines.linewidth": 1.5,
        "image.cmap": "gray",
    })


def save(figure: Figure, path: Path | str, title: str = "") -> None:
    """Write a PNG of 256 colours, atomically, with a title above it if there is one; the same figure gives the same bytes."""
    if title:
        figure.suptitle(title, fontsize=9)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    small = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        small.save(temporary, optimize=True, dpi=(DPI, DPI))


def name_of(dataset: str) -> str:
    """A dataset's name in figures."""
    return DATASETS.get(dataset, dataset)


def look_of(method: str) -> tuple[str, str, str, str | tuple]:
    """Name in figures, colour, hatch and line of a method; black for one that is not in :data:`METHODS`."""
    return METHODS.get(method, (method, "#000000", "", "-"))


def panels(rows: int, columns: int, height_in: float, **shared) -> tuple[Figure, np.ndarray]:
    """A figure as wide as the page, and its axes ``(rows, columns)``; more is for ``Figure.subplots``."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all panels, of what any of them has."""
    handles = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center",
                  ncols=len(handles) if len(handles) <= 5 else 4 if len(handles) > 8 else -(-len(handles) // 2))
