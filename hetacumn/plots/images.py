"""Images of particles, and scale bars."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from hetacumn.plots.theme import WIDTH_IN, Array, dataset_label, panels

#: Numbers that a scale bar may have, times a power of ten.
ROUND_NUMBERS = (1, 2, 5)
GREY_LEVELS = 24  # of a noisy image, so that the PNG stays small


def scale_bar_A(extent_A: float) -> float:
    """Return the length in Å of the scale bar of a view ``extent_A`` wide: the longest round number up to 40 % of the view."""
    power = 10.0 ** np.floor(np.log10(0.4 * extent_A))
    return float(max(n * power for n in ROUND_NUMBERS if n * power <= 0.4 * extent_A))


def add_scale_bar(axis: Axes, pixel_A: float, box: int, fontsize: float = 8) -> None:
    """Add a scale bar with its length in Å to the lower left of an image of ``box`` pixels of ``pixel_A`` Å along a side."""
    length_A = scale_bar_A(box * pixel_A)
    left, y = 0.06 * box, 0.93 * box
    outline = [withStroke(linewidth=4.5, foreground="black")]
    axis.plot([left, left + length_A / pixel_A], [y, y], color="white", linewidth=2.5, solid_capstyle="butt",
              path_effects=outline, label="scale bar")  # fmt: skip
    outline = [withStroke(linewidth=2, foreground="black")]
    axis.text(left, y - 0.04 * box, f"{length_A:g} Å", color="white", fontsize=fontsize, fontweight="bold", va="bottom",
              path_effects=outline)  # fmt: skip
    axis.set(xlim=(-0.5, box - 0.5), ylim=(box - 0.5, -0.5))  # a line on an image widens the limits


def show_particle(axis: Axes, image: Real[np.ndarray, "y x"]) -> None:
    """Show an image in grey, protein bright, from its 0.5th to its 99.8th percentile."""
    low, high = np.percentile(image, (0.5, 99.8))
    axis.imshow(image, cmap=matplotlib.colormaps["gray"].resampled(GREY_LEVELS), vmin=low, vmax=high, interpolation="nearest")
    axis.set_axis_off()


def particle_gallery(
    clean: Sequence[Real[np.ndarray, "_m _y _x"]],
    noisy: Sequence[Real[np.ndarray, "_m _y _x"]],
    names: Sequence[str],
    columns: int = 6,
    kinds: tuple[str, str] = ("noise-free", "noisy"),
    pixels_A: Sequence[float] | None = None,
) -> Figure:
    """Show two rows of particles per dataset: noise-free images above, noisy images below.

    Args:
        clean: One stack per dataset, protein bright.
        noisy: One stack per dataset, protein bright: the same particles and field of view as ``clean``; the box may differ.
        names: The names of the datasets; a single name is above the figure, several are beside their rows.
        columns: The number of particles in a row.
        kinds: The names of the two rows.
        pixels_A: The pixel size of ``noisy`` in Å, one per dataset; the first image of a row then has a scale bar.
    """
    size = WIDTH_IN / (columns + 0.5)
    figure, axes = panels(2 * len(names), columns, size * 2 * len(names) + 0.1)
    if len(names) == 1:
        figure.suptitle(dataset_label(names[0]), fontsize=9)
    for row, (name, stacks) in enumerate(zip(names, zip(clean, noisy, strict=True), strict=True)):
        for half, (stack, kind) in enumerate(zip(stacks, kinds, strict=True)):
            line = axes[2 * row + half]
            for axis, image in zip(line, stack, strict=False):
                show_particle(axis, image)
            for axis in line:
                axis.set_axis_off()
            label = kind if len(names) == 1 else f"{dataset_label(name)}\n{kind}"
            line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, rotation=90, ha="right", va="center", ma="center")
            if pixels_A is not None:
                box = stack.shape[-1]
                add_scale_bar(line[0], pixels_A[row] * stacks[1].shape[-1] / box, box)
    return figure


def pictures(
    images: Real[Array, "n y x"], titles: Sequence[str], same_scale: bool = False, pixel_A: float | None = None
) -> Figure:
    """Show images in a row.

    Args:
        images: Images, bright where values are high.
        titles: One title per image.
        same_scale: Stretch all images to the range of the first, rather than each to its own.
        pixel_A: The pixel size in Å; the first image then has a scale bar.
    """
    stack = np.asarray(images)
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / len(stack) + 0.3), layout="constrained")
    axes = figure.subplots(1, len(stack), squeeze=False)[0]
    for axis, image, title in zip(axes, stack, titles, strict=True):
        scale = stack[0] if same_scale else image
        axis.imshow(image, cmap=matplotlib.colormaps["gray"], vmin=float(scale.min()), vmax=float(scale.max()))
        axis.set_title(title)
        axis.set_axis_off()
    if pixel_A is not None:
        add_scale_bar(axes[0], pixel_A, stack.shape[-1])
    return figure
