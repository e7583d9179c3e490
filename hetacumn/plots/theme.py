"""The theme of all figures: colours, names, sizes and legends, and the function that saves a figure."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from hetacumn.common.files import atomic_path

#: An array of any of the three libraries whose arrays the notebooks plot.
Array = np.ndarray | torch.Tensor | pd.Series
#: A line style of matplotlib: its name, or an offset and the lengths of dashes and gaps in points.
LineStyle = str | tuple[int, tuple[int, ...]]

#: The colour-blind safe colours of Okabe and Ito, dark and light alternating.
CLASS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
CLASS_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "", "oooo")
BOUND_COLOUR = "#D55E00"
NEUTRAL_COLOUR = "#9A9A9A"


@dataclass(frozen=True)
class MethodStyle:
    """The look of one method in every figure.

    Attributes:
        label: The name in figures.
        colour: The colour of its bars, lines and points, as ``#RRGGBB``.
        hatch: The hatch of its bars.
        line: The dashes of its lines.
        marker: The marker of its points.
        area: The area of its points in points².
        note: A few words that explain the method to a newcomer.
    """

    label: str
    colour: str
    hatch: str
    line: LineStyle
    marker: str = "o"
    area: float = 40
    note: str = ""

    @property
    def explained(self) -> str:
        """The text of a legend: the label, and the note (if any) in brackets."""
        return f"{self.label} ({self.note})" if self.note else self.label

    @property
    def two_lines(self) -> str:
        """The label above the note, for the margins of figures."""
        return f"{self.label}\n{self.note}" if self.note else self.label


#: The style of every method, in the order in which figures show the methods.
METHODS = {
    "relion": MethodStyle("RELION 3.1", "#009E73", "xxxx", (0, (5, 2)), "s", 34, "InitialModel, then Class3D"),
    "cryodrgn2": MethodStyle("cryoDRGN2", "#CC79A7", "", (0, (3, 1, 1, 1)), "^", 40, "command abinit_het_old"),
    "drgnai": MethodStyle("cryoDRGN-AI", "#882255", "oo", (0, (3, 1, 1, 1, 1, 1)), "v", 40, "z optimised per image"),
    "drgnai-conf": MethodStyle("cryoDRGN-AI", "#AA6688", "..", (0, (2, 2)), "X", 40, "z by an encoder"),
    "em": MethodStyle("K-class EM", NEUTRAL_COLOUR, "", ":", "P", 44, "ab initio start alone"),
    "amortized": MethodStyle("amortized", "#E69F00", "....", (0, (1, 1)), "*", 130, "one task, as cryoFIRE"),
    "hetacumn-bare": MethodStyle("HetACUMN, bare", "#56B4E9", "////", "--", ">", 40, "two tasks, random start"),
    "hetacumn-encoder": MethodStyle(
        "HetACUMN, encoder alone", "#8FBBD9", "\\\\\\\\", (0, (4, 1, 1, 1)), "p", 40, "no decoder feedback"
    ),
    "hetacumn": MethodStyle("HetACUMN", "#0072B2", "", "-", "o", 90, "one pass, decoder feedback"),
    "hetacumn-refined": MethodStyle("HetACUMN, refined", "#003A5C", "", "-.", "D", 24, "poses, volumes refined"),
}
#: The names of this project's datasets in figures and tables; any other dataset keeps its own name.
DATASETS = {
    "adk": "adenylate kinase",
    "ribosome": "ribosome",
    "spliceosome": "spliceosome",
    "small": "small motions",
    "unequal": "unequal classes",
}
DASHES = ("-", "--", "-.", ":")
WIDTH_IN = 7.2
DPI = 130


def in_order(present: set[str]) -> list[str]:
    """List methods in the order of :data:`METHODS`; other methods follow, sorted by name."""
    return [method for method in METHODS if method in present] + sorted(present - METHODS.keys())


def method_style(method: str) -> MethodStyle:
    """Look up the style of a method; a method that is not in :data:`METHODS` is black and keeps its own name."""
    return METHODS.get(method, MethodStyle(method, "#000000", "", "-"))


def dataset_label(dataset: str) -> str:
    """Return the name that figures show for a dataset."""
    return DATASETS.get(dataset, dataset)


def style() -> None:
    """Set matplotlib to this project's style for the whole session: text of 9 pt, ticks and legends of 8 pt."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(
        {
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
        }
    )


def save(figure: Figure, path: Path | str, title: str = "") -> None:
    """Write a figure as a PNG of 256 colours, atomically; the same figure gives the same bytes.

    Args:
        figure: The figure.
        path: The file.
        title: A title above the figure; none if empty.
    """
    if title:
        figure.suptitle(title, fontsize=9)
    png = BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    small = Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        small.save(temporary, optimize=True, dpi=(DPI, DPI))


def save_movie(frames: Iterable[Figure], path: Path | str, seconds: float = 0.2) -> None:
    """Write figures of equal size as a GIF that plays forwards and backwards without end, atomically.

    Args:
        frames: The figures.
        path: The file.
        seconds: The time that each figure is shown.
    """
    images = []
    for frame in frames:
        png = BytesIO()
        frame.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
        images.append(Image.open(png).convert("RGB").quantize(64, dither=Image.Dither.NONE))
    first, *others = images + images[-2:0:-1]
    with atomic_path(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=round(1000 * seconds), loop=0)


def panels(rows: int, columns: int, height_in: float, **options: Any) -> tuple[Figure, Shaped[np.ndarray, "rows columns"]]:
    """Create a figure as wide as the page, and its axes; ``options`` go to ``Figure.subplots``."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def legend_below(figure: Figure, axes: Iterable[Axes], title: str = "", marker_scale: float = 1.0) -> None:
    """Add one legend for all panels, with as many columns as fit the page; a label of several panels appears once.

    Args:
        figure: The figure.
        axes: The panels.
        title: A line of text above the entries; none if empty.
        marker_scale: The size of a marker in the legend, relative to its size in the panels.
    """
    handles: dict[Any, Any] = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    longest_in = max((0.062 * len(label) + 0.55 for label in handles), default=1.0)  # a character of 8 pt, and the handle
    rows = -(-len(handles) // max(1, int(WIDTH_IN / longest_in)))
    legend = figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=-(-len(handles) // max(1, rows)),
        title=title or None,
        markerscale=marker_scale,
    )
    legend.get_title().set_fontsize(8)


def unique(table: pd.DataFrame, column: str) -> list[str]:
    """List the values of a column in the order of their first rows."""
    return list(dict.fromkeys(table[column]))
