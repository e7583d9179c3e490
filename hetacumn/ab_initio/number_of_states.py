"""The *ab initio* start with a given number of volumes, or with as many as the images need.

If the number of states is not given, the start fits 6 volumes and counts the states. If it finds at least as many states as
volumes, it fits twice as many volumes, up to :data:`MOST_VOLUMES`. It stops if it finds fewer states than volumes, or if more
volumes do not raise the log-likelihood of held-out images.

:func:`count_states` counts in three steps:

1. *Density.* A Gaussian mixture describes the density of the latents. The density of held-out images selects the number of
   components.
2. *Evidence.* The poses of held-out images are searched under the volume at the mean of each component. A component is removed
   if its images lose less than a nat without its volume (:func:`~hetacumn.ab_initio.evidence.needed_volumes`). This step
   removes components of images with wrong poses: with new poses, these images fit the volume of their true state.
3. *Peaks.* One state may need several components, for example for images of different contrast. Two components are one state
   unless the density between them falls below :data:`DIP` of the lower peak. The density is computed along the ridgeline (Ray &
   Lindsay 2005), after the noise of the latents has been subtracted from the covariances.

Images without the molecule often form a peak of their own, which counts as a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.config import AbInitioConfig, components_for
from hetacumn.ab_initio.evidence import is_significant, needed_volumes
from hetacumn.ab_initio.routes import NOISE, AbInitioRun
from hetacumn.ab_initio.start import Start, StateNumber, Steps, Tensors
from hetacumn.particles.observations import Observations, without_empty
from hetacumn.physics.slices import Slicer
from hetacumn.search.clusters import fit_mixtures
from hetacumn.search.subspace import LatentPosterior, infer_latents

BeginRun = Callable[..., AbstractContextManager[AbInitioRun]]  # with the arguments ``config`` and ``steps``

FIRST_VOLUMES, MOST_VOLUMES = 6, 64  # numbers of volumes of the first and of the last start
FEWEST_PER_VOLUME = 60  # images per volume of a start with more than FIRST_VOLUMES
FEWEST_HELD = 20  # held-out images; fewer images cannot choose between mixtures
MISSES = 2  # the search for more components ends after this number of mixtures without a significant gain
DIP = 0.8  # two states have a density between them of at most this fraction of the lower peak
RIDGE_POINTS = 41  # points of a ridgeline at which the density is computed
LEAST_SPREAD = 0.02  # least variance of a component along an axis, as a fraction of its mean variance


def ab_initio(
    data: Observations,
    config: AbInitioConfig,
    seed: int,
    log: Callable[[str], object] = tqdm.write,
    done: Mapping[str, Tensors] | None = None,
    keep: Callable[[str, Tensors], object] | None = None,
) -> Start:
    """Reconstruct a linear subspace of volumes from images alone.

    Larger images are Fourier-cropped to ``config.box``; the result has the box of ``data``. If ``config.volumes`` is 0, the
    function finds the number of states. ``log`` receives lines of text about the progress.
    ``keep`` receives the name and the tensors of each step at its end. ``done`` contains these tensors, by the names of the
    steps, from an interrupted run with the same images, settings and seed; the function does not repeat these steps. On a CPU
    the result is bitwise equal to the result of an uninterrupted run.
    """
    coarse = data.coarsened(config.box)
    start = start_with(partial(begin, coarse, seed=seed), coarse, config, Steps(log, done or {}, keep))
    return start.resized(data.plane.box)


@contextmanager
def begin(data: Observations, config: AbInitioConfig, seed: int, steps: Steps) -> Iterator[AbInitioRun]:
    """Begin a start with settings that are adapted to the images, and show its progress."""
    effort, em_steps = config.effort, config.classes.steps * ("classes" in config.routes) + config.soft.steps
    total = config.consensus.restarts * config.consensus.steps + em_steps
    fitted = [route for route in config.routes if route != NOISE]  # the route ``noise`` fits no subspace
    total += (effort.route_fits * len(fitted) + effort.last_fits) * config.subspace_steps
    with tqdm(total=total, desc="ab initio", mininterval=5) as progress:
        yield AbInitioRun(data, config, torch.Generator().manual_seed(seed), progress, steps)


def start_with(begin_run: BeginRun, data: Observations, config: AbInitioConfig, steps: Steps) -> Start:
    """Compute a start with ``config.volumes`` volumes; if this number is 0, find the number of states.

    ``begin_run`` begins a run for given settings and steps.
    """
    config = config.adapted_to(data)
    if not config.volumes:
        return _find_number(begin_run, len(data), config, steps)
    with begin_run(config=config, steps=steps) as run:
        return replace(run.run(), number=StateNumber(config.volumes, config.volumes))


def _find_number(begin_run: BeginRun, images: int, config: AbInitioConfig, steps: Steps) -> Start:
    """Fit more and more volumes until they outnumber the states; return the start, which states the number of states."""
    found, made = dict(steps.done), steps.keep

    def keep(name: str, tensors: Tensors) -> None:  # the next start does not repeat shared steps
        found[name] = tensors
        if made is not None:
            made(name, tensors)

    best: Start | None = None
    counts, evidence, number = _volume_counts(images), torch.empty(0), StateNumber(1, 1)
    for volumes in counts:
        one = replace(config, volumes=volumes, components=config.components or components_for(volumes))
        with begin_run(config=one, steps=replace(steps, done=found, keep=keep, label=f"{volumes} volumes, ")) as run:
            start = run.run()
            higher = run.held_evidence(start)
            if best is not None and not is_significant(higher - evidence):
                reason = f"{volumes} volumes explain held-out images no better than {number.volumes}"
                return _found(best, replace(number, reason=reason), steps)
            best, evidence, number = start, higher, StateNumber(_count(run, start), volumes)
        if number.states < volumes:
            reason = f"held-out images need {number.states} of {volumes} volumes"
            return _found(best, replace(number, reason=reason), steps)
    full = f"a start fits at most {MOST_VOLUMES} volumes"
    few = f"{images} images are too few for more than {counts[-1]} volumes"
    return _found(start, replace(number, reason=full if counts[-1] == MOST_VOLUMES else few), steps)


def _found(start: Start, number: StateNumber, steps: Steps) -> Start:
    plural = "" if number.states == 1 else "s"
    steps.log(f"ab initio: found {number.states} state{plural}; {number.reason}")
    return replace(start, number=number)


def _volume_counts(images: int) -> list[int]:
    """Return the numbers of volumes of successive starts, for a number of images."""
    counts = [min(FIRST_VOLUMES, images)]
    while counts[-1] < MOST_VOLUMES and 2 * counts[-1] * FEWEST_PER_VOLUME <= images:
        counts.append(min(2 * counts[-1], MOST_VOLUMES))
    return counts


def _count(run: AbInitioRun, start: Start) -> int:
    """Count the states of a start, with the images and settings of its run."""
    config = run.config
    fine = run.data.within(config.refine.fit * run.data.plane.box)
    posterior = run.focus.marginal(infer_latents(fine, Slicer(start.basis, config.padding), start.poses))
    usable = without_empty(run.usable, posterior.log_evidence, config.unfit_share)
    sample = LatentSample.of(posterior, usable & ~run.held, usable & run.held)
    return count_states(sample, partial(run.compare_held, start), 2 * config.volumes)


@dataclass(frozen=True)
class LatentSample:
    """Latents of images, in double precision.

    - ``means``: posterior means of z.
    - ``noise``: mean covariance that image noise adds to ``means``.
    - ``fit``: marks the images to which mixtures are fitted.
    - ``held``: marks the held-out images.
    """

    means: Float[np.ndarray, "n q"]
    noise: Float[np.ndarray, "q q"]
    fit: Bool[np.ndarray, " n"]
    held: Bool[np.ndarray, " n"]

    @classmethod
    def of(cls, posterior: LatentPosterior, fit: Bool[Tensor, " n"], held: Bool[Tensor, " n"]) -> LatentSample:
        """Take the sample from the posterior of z under the prior N(0, I).

        A posterior with covariance S shrinks z towards 0. Image noise then contributes S - S² to the covariance of the mean.
        """
        covariances = posterior.precision.double().inverse()
        noise = (covariances - covariances @ covariances).mean(0)
        return cls(*(part.cpu().numpy() for part in (posterior.mean.double(), noise, fit, held)))


def count_states(
    sample: LatentSample, compete: Callable[[Float[Tensor, "k q"]], Float[Tensor, "m k"]], most: int, seed: int = 0
) -> int:
    """Count the states of a sample of latents; see the head of this module.

    ``compete`` returns the log-likelihoods of held-out images under the volumes at given latents. The mixture has at most
    ``most`` components.
    """
    if sample.held.sum() < FEWEST_HELD:
        return 1
    mixture = _density(sample, most, seed)
    kept = needed_volumes(compete(torch.from_numpy(mixture.means_).float()))
    if len(kept) == 1:
        return 1
    fitted = sample.means[sample.fit]
    start = mixture.means_[kept]
    mixture = GaussianMixture(len(kept), means_init=start, reg_covar=1e-4, random_state=seed).fit(fitted)
    return _count_peaks(mixture, sample.noise)


def _density(sample: LatentSample, most: int, seed: int) -> GaussianMixture:
    """Fit Gaussian mixtures; return the smallest mixture without a significant gain of held-out density by more components."""
    fitted, held = sample.means[sample.fit], sample.means[sample.held]
    best, highest, misses = None, torch.empty(0), 0
    for count in component_counts(min(most, len(fitted) // 2)):
        found = max(fit_mixtures(fitted, count, 3, seed), key=lambda fit: fit.score(held))
        density = torch.from_numpy(found.score_samples(held))
        if best is None or is_significant(density - highest):
            best, highest, misses = found, density, 0
        elif (misses := misses + 1) == MISSES:
            break
    return best


def component_counts(most: int) -> list[int]:
    """Return the numbers of components to try, up to ``most``: all numbers up to 16, then with steps of about an eighth."""
    counts = [1]
    while (following := counts[-1] + max(1, counts[-1] // 8)) <= most:
        counts.append(following)
    return counts


def _count_peaks(mixture: GaussianMixture, noise: Float[np.ndarray, "q q"]) -> int:
    """Count the peaks of the density of a mixture whose covariances contain the covariance ``noise``."""
    spreads = [_without_noise(covariance, noise) for covariance in mixture.covariances_]
    joined = np.eye(len(spreads), dtype=bool)
    for i in range(len(spreads)):
        for j in range(i):
            joined[i, j] = _least_density(mixture, spreads, i, j) > DIP
    return connected_components(joined, directed=False)[0]


def _without_noise(covariance: Float[np.ndarray, "q q"], noise: Float[np.ndarray, "q q"]) -> Float[np.ndarray, "q q"]:
    variances, axes = np.linalg.eigh(covariance - noise)
    return (axes * np.maximum(variances, LEAST_SPREAD * np.trace(covariance) / len(covariance))) @ axes.T


def _least_density(mixture: GaussianMixture, spreads: list[np.ndarray], i: int, j: int) -> float:
    """Return the least density on the ridgeline between two components, divided by the lower density of its ends."""
    first, second = np.linalg.inv(spreads[i]), np.linalg.inv(spreads[j])
    line = np.stack([
        np.linalg.solve((1 - a) * first + a * second, (1 - a) * first @ mixture.means_[i] + a * second @ mixture.means_[j])
        for a in np.linspace(0, 1, RIDGE_POINTS)
    ])  # fmt: skip
    components = zip(mixture.means_, spreads, strict=True)
    parts = [multivariate_normal.logpdf(line, mean, spread, allow_singular=True) for mean, spread in components]
    density = logsumexp(np.log(mixture.weights_)[:, None] + np.stack(parts), axis=0)
    return float(np.exp(density.min() - min(density[0], density[-1])))
