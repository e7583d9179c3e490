"""Particles as pictures, and how their views and defocus are spread."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hetacumn.plots.look import WIDTH_IN, panels


def particle_gallery(clean: Sequence[np.ndarray], noisy: Sequence[np.ndarray], names: Sequence[str],
                     columns: int = 6, kinds: tuple[str, str] = ("clean", "noisy")) -> Figure:
    """Clean particles above the same as the microscope gives them, two rows a dataset.

    ``clean``, ``noisy``: a stack ``(m, y, x)`` a dataset; protein bright in both. ``kinds`` names the two rows; a dataset's
    name is beside them, or above if there is but one.
    """
    size = WIDTH_IN / (columns + 0.5)
    figure, axes = panels(2 * len(names), columns, size * 2 * len(names))
    if len(names) == 1:
        figure.suptitle(names[0], fontsize=9)
    for row, (name, stacks) in enumerate(zip(names, zip(clean, noisy, strict=True), strict=True)):
        for half, (stack, kind) in enumerate(zip(stacks, kinds, strict=True)):
            line = axes[2 * row + half]
            for axis, image in zip(line, stack, strict=False):
                low, high = np.percentile(image, (0.5, 99.8))
                axis.imshow(image, cmap=matplotlib.colormaps["gray"].resampled(24), vmin=low, vmax=high,
                            interpolation="nearest")
            for axis in line:
                axis.set_axis_off()
            line[0].text(-0.06, 0.5, kind if len(names) == 1 else f"{name}\n{kind}", transform=line[0].transAxes, rotation=90,
                         ha="right", va="center", ma="center")
    return figure


def pictures(images: np.ndarray, titles: Sequence[str], same_scale: bool = False) -> Figure:
    """Images ``(n, y, x)`` in a row, protein bright; each stretched to its own range, or all to that of the first."""
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / len(images) + 0.3), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, image, title in zip(axes, images, titles, strict=True):
        scale = images[0] if same_scale else image
        axis.imshow(image, cmap=matplotlib.colormaps["gray"], vmin=float(scale.min()), vmax=float(scale.max()))
        axis.set_title(title)
        axis.set_axis_off()
    return figure


def view_distribution(rot_deg: np.ndarray, tilt_deg: np.ndarray) -> Figure:
    """From where the particles were seen: RELION's rot and tilt ``(n,)`` on an equal-area map of the sphere.

    Grey is particles per bin over the mean: an even distribution is 1 everywhere.
    """
    figure = Figure(figsize=(WIDTH_IN, 0.55 * WIDTH_IN), layout="constrained")
    axis = figure.add_subplot(projection="mollweide")
    longitude = np.linspace(-np.pi, np.pi, 37)
    latitude = np.arcsin(np.linspace(-1, 1, 19))  # bins of equal area
    turned = np.deg2rad((np.asarray(rot_deg) + 180) % 360 - 180)
    counts, _, _ = np.histogram2d(np.pi / 2 - np.deg2rad(tilt_deg), turned, bins=(latitude, longitude))
    finer = 6  # the edges of cells are drawn straight, the map's are not
    rows, columns = (np.interp(np.arange(finer * (len(edges) - 1) + 1) / finer, np.arange(len(edges)), edges)
                     for edges in (latitude, longitude))  # fmt: skip
    mesh = axis.pcolormesh(columns, rows, np.kron(counts / counts.mean(), np.ones((finer, finer))), cmap="Greys", vmin=0)
    figure.colorbar(mesh, ax=axis, label="particles per bin / mean", shrink=0.7)
    degrees = np.arange(-120, 121, 60)
    axis.set_xticks(np.deg2rad(degrees), [f"{value}°".replace("-", "−") for value in degrees], fontsize=8)
    axis.set(xlabel="rot", ylabel="90° − tilt")
    axis.grid(alpha=0.3)
    return figure


def defocus_histogram(defocus_u_A: np.ndarray, defocus_v_A: np.ndarray) -> Figure:
    """Mean defocus of the particles in µm, and their astigmatism, the difference of the two."""
    figure, axes = panels(1, 2, 2.3)
    u, v = np.asarray(defocus_u_A, dtype=float), np.asarray(defocus_v_A, dtype=float)
    both = ((u + v) / 2e4, abs(u - v) / 1e4)
    for axis, values, label in zip(axes[0], both, ("defocus (µm)", "astigmatism (µm)"), strict=True):
        axis.hist(values, 40, color="#9A9A9A")
        axis.set(xlabel=label)
    axes[0, 0].set_ylabel("particles")
    return figure
