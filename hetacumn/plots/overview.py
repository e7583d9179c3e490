"""One figure of a whole run: noisy images, latent space and recovered volumes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real
from matplotlib.figure import Figure

from hetacumn.plots.distributions import scatter_classes
from hetacumn.plots.images import add_scale_bar, show_particle
from hetacumn.plots.surfaces import add_bar, add_panel, enclosing_level, principal_view, show_surface
from hetacumn.plots.theme import CLASS_COLOURS

WIDTH_IN, HEIGHT_IN = 12.2, 4.2
TOP_IN = 0.85  # of all panels, below the headings
FONT_SIZE, SMALL_SIZE = 12, 10  # a web page shows the figure at about two thirds of its size
MOST_PARTICLES = 2000  # in the latent space


@dataclass(frozen=True)
class Overview:
    """The data of one dataset for :func:`overview`.

    Attributes:
        title: The title of the figure.
        particles: Noisy images, protein bright; the first four are shown.
        pixel_A: The size of a pixel in Å.
        latents: Latent coordinates of the particles.
        classes: True classes of the particles, from 0.
        recovered: Recovered class volumes, in the frame and the order of ``truth``.
        truth: True class volumes.
        voxel_A: The size of a voxel of ``recovered`` and ``truth`` in Å.
    """

    title: str
    particles: Real[np.ndarray, "m y x"]
    pixel_A: float
    latents: Float[np.ndarray, "n d"]
    classes: Int[np.ndarray, " n"]
    recovered: Float[np.ndarray, "k z z z"]
    truth: Float[np.ndarray, "k z z z"]
    voxel_A: float


def overview(shown: Overview) -> Figure:
    """Show noisy particles, the latent space coloured by true class, and the recovered class volumes above the true ones."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout=None)
    figure.suptitle(shown.title, fontsize=FONT_SIZE, fontweight="bold", y=0.985)
    _show_particles(figure, shown)
    _show_latents(figure, shown)
    _show_volumes(figure, shown)
    for left_in in (2.92, 6.05):
        _write(figure, left_in, 2.3, "➜", fontsize=22)
    return figure


def _show_particles(figure: Figure, shown: Overview) -> None:
    """Show four images in a square on the left."""
    _write(figure, 1.4, 0.55, "noisy particle images")
    size = 1.32
    for i, image in enumerate(shown.particles[:4]):
        left, top = 0.06 + (i % 2) * (size + 0.05), TOP_IN + i // 2 * (size + 0.05)
        axis = figure.add_axes(_place(left, top, size, size))
        show_particle(axis, image)
        if i == 0:
            add_scale_bar(axis, shown.pixel_A, image.shape[-1], SMALL_SIZE)


def _show_latents(figure: Figure, shown: Overview) -> None:
    """Show the latent space in the middle."""
    _write(figure, 4.75, 0.55, "latent space z: one point per image")
    axis = figure.add_axes(_place(3.7, TOP_IN, 2.1, 2.1))
    scatter_classes(axis, shown.latents, shown.classes, MOST_PARTICLES)
    axis.set(xticks=[], yticks=[], xlabel="latent PC 1 (no unit)", ylabel="latent PC 2")
    figure.legend(
        *axis.get_legend_handles_labels(), loc="center", bbox_to_anchor=(4.75 / WIDTH_IN, 1 - 3.55 / HEIGHT_IN), ncols=2,
        title="colour: true class, unknown to the program", fontsize=SMALL_SIZE, title_fontsize=SMALL_SIZE, markerscale=2,
    )  # fmt: skip


def _show_volumes(figure: Figure, shown: Overview) -> None:
    """Show the recovered class volumes above the true ones on the right."""
    left, right, count = 6.75, WIDTH_IN - 0.05, len(shown.truth)
    _write(figure, (left + right) / 2, 0.55, "class volumes")
    size = min((right - left) / count, 1.5)
    start = (left + right - count * size) / 2
    view = principal_view(shown.truth)
    for k in range(count):
        _write(figure, start + (k + 0.5) * size, TOP_IN - 0.05, f"class {k + 1}", fontsize=SMALL_SIZE)
    for row, (name, volumes) in enumerate({"recovered": shown.recovered, "true": shown.truth}.items()):
        top = TOP_IN + row * 1.5
        _write(figure, left - 0.1, top + 0.75, name, rotation=90)
        for k, volume in enumerate(volumes):
            axis = add_panel(figure, start + k * size, top + (1.5 - size) / 2, size)
            show_surface(axis, volume, enclosing_level(volume, shown.truth[k]), CLASS_COLOURS[k % len(CLASS_COLOURS)], view)
            if row == 1 and k == 0:
                add_bar(axis, view, shown.voxel_A, SMALL_SIZE)


def _place(left_in: float, top_in: float, width_in: float, height_in: float) -> tuple[float, float, float, float]:
    """Convert a place in inches from the upper left corner into fractions of the figure from the lower left corner."""
    return left_in / WIDTH_IN, 1 - (top_in + height_in) / HEIGHT_IN, width_in / WIDTH_IN, height_in / HEIGHT_IN


def _write(figure: Figure, x_in: float, y_in: float, text: str, rotation: float = 0, fontsize: float = FONT_SIZE) -> None:
    """Write a text centred at a place in inches from the upper left corner."""
    figure.text(x_in / WIDTH_IN, 1 - y_in / HEIGHT_IN, text, ha="center", va="center", rotation=rotation, fontsize=fontsize)
