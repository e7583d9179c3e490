"""Tables and volumes to figures: computes nothing heavy and saves only where :func:`save` is called.

Class ``k`` has the same colour and marker in every figure, and so has every method its colour and hatch; both
sets are safe for the colour-blind and told apart in grey. Call :func:`style` once before drawing.
"""

from hetacumn.plots.images import defocus_histogram, particle_gallery, pictures, view_distribution
from hetacumn.plots.latents import latent_density, latent_scatter, motion_scatter
from hetacumn.plots.lines import curves, fsc_curves, map_fsc, noise_spectrum, training_curves
from hetacumn.plots.look import CLASS_COLOURS, CLASS_MARKERS, DATASETS, DPI, METHODS, in_order, save, style
from hetacumn.plots.scores import (
    ablation_bars,
    accuracy_against_time,
    accuracy_bars,
    accuracy_lines,
    confusion_matrix,
    log_ratio_histogram,
    pose_error_histogram,
    scaling,
    stage_bars,
)
from hetacumn.plots.surfaces import path_surfaces, volume_surfaces

__all__ = [
    "CLASS_COLOURS", "CLASS_MARKERS", "DATASETS", "DPI", "METHODS", "in_order", "save", "style",
    "ablation_bars", "accuracy_against_time", "accuracy_bars", "accuracy_lines", "confusion_matrix", "curves",
    "defocus_histogram", "fsc_curves", "latent_density", "latent_scatter", "log_ratio_histogram", "map_fsc", "motion_scatter",
    "noise_spectrum", "particle_gallery", "path_surfaces", "pictures", "pose_error_histogram", "scaling", "stage_bars",
    "training_curves", "view_distribution", "volume_surfaces",
]
