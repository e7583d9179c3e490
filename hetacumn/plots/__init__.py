"""Figures of tables, particles and volumes.

A function of this package takes arrays or tables and returns a figure; only :func:`save` writes a file. Call :func:`style`
once before the first figure. A class has the same colour and marker in every figure. A method has the same colour, hatch, line
and marker. The colours of classes and of methods are safe for the colour-blind, and differ in grey too. Images and volumes have
a scale bar in Å if the caller gives the size of a pixel or voxel.
"""

from hetacumn.plots.accuracy import accuracy_against_time, accuracy_lines, confusion_matrix, settled_shares, state_scores
from hetacumn.plots.bars import ablation_bars, accuracy_bars, busy_bars, settled_bars, stage_bars, state_numbers
from hetacumn.plots.distributions import (
    defocus_histogram,
    energy_landscape,
    latent_density,
    latent_scatter,
    log_ratio_histogram,
    motion_scatter,
    pose_changes,
    pose_error_histogram,
    view_distribution,
)
from hetacumn.plots.heterogeneity import heterogeneity_scores
from hetacumn.plots.images import particle_gallery, pictures
from hetacumn.plots.lines import curves, mixture_scores, training_curves
from hetacumn.plots.overview import Overview, overview
from hetacumn.plots.spectra import fsc_curves, full_box_fsc, half_map_fsc, map_fsc, noise_spectrum
from hetacumn.plots.surfaces import full_box_surfaces, map_surfaces, path_movie, path_surfaces, volume_surfaces
from hetacumn.plots.theme import (
    CLASS_COLOURS,
    CLASS_MARKERS,
    DATASETS,
    DPI,
    METHODS,
    MethodStyle,
    in_order,
    save,
    save_movie,
    style,
)

__all__ = [
    "CLASS_COLOURS", "CLASS_MARKERS", "DATASETS", "DPI", "METHODS", "MethodStyle", "Overview", "in_order", "save",
    "save_movie", "style", "ablation_bars", "accuracy_against_time", "accuracy_bars", "accuracy_lines", "busy_bars",
    "confusion_matrix", "curves", "defocus_histogram", "energy_landscape", "fsc_curves", "full_box_fsc",
    "full_box_surfaces", "half_map_fsc", "heterogeneity_scores", "latent_density", "latent_scatter", "log_ratio_histogram",
    "map_fsc", "map_surfaces", "mixture_scores", "motion_scatter", "noise_spectrum", "overview", "particle_gallery",
    "path_movie", "path_surfaces", "pictures", "pose_changes", "pose_error_histogram", "settled_bars", "settled_shares",
    "stage_bars", "state_numbers", "state_scores", "training_curves", "view_distribution", "volume_surfaces",
]  # fmt: skip
