"""Axes of the latent space of a stack, paths along them or along the density of the particles, and the energy landscape."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree
from sklearn.decomposition import FastICA
from torch import Tensor

CELLS = 100  # of the energy landscape along each axis
WIDTHS = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6)  # candidates for the standard deviation of the kernel along an axis, in cells
MARGIN = 0.1  # of the energy landscape around the particles, as a fraction of their range
LEAST_PARTICLES = 5.0  # the energy is undefined where the kernel covers fewer particles
NEIGHBOURS = 15  # nearest particles that an edge of the graph connects with a particle
POWER = 4  # exponent of the distance in the cost of a step, so that many short steps cost less than one long step
LEAST_STEP = 1e-6  # added to distances, because a distance of 0 means no edge in a sparse graph
SMOOTHING = 2.0  # standard deviation, in steps, of the Gaussian that smooths a path


@dataclass(frozen=True)
class LatentAxes:
    """Statistically independent directions of a latent space, sorted by how much a unit step changes the volume, largest first.

    - ``coordinates``: positions of the particles along each direction, with unit variance.
    - ``middle``: the mean latent.
    - ``directions``: change of z for a unit step along each direction.
    - ``readout``: change of the coordinates for a unit step along each latent dimension.
    """

    coordinates: Float[Tensor, "n k"]
    middle: Float[Tensor, " q"]
    directions: Float[Tensor, "k q"]
    readout: Float[Tensor, "k q"]

    def place(self, z: Float[Tensor, "m q"]) -> Float[Tensor, "m k"]:
        """Return the coordinates of latents along each direction."""
        return (z - self.middle) @ self.readout.T

    def path(self, axis: int, points: int) -> Float[Tensor, "{points} q"]:
        """Return equally spaced latents along an axis, from the 5th to the 95th percentile of the particles."""
        low, high = torch.quantile(self.coordinates[:, axis], torch.tensor([0.05, 0.95])).tolist()
        return self.middle + torch.linspace(low, high, points)[:, None] * self.directions[axis]


def latent_axes(
    latents: Float[Tensor, "n q"], count: int, basis: Float[Tensor, "1+q box box box"], seed: int = 0
) -> LatentAxes:
    """Find the ``count`` independent components (FastICA, Hyvärinen & Oja 2000) that change the volume most.

    ``basis`` is the mean volume, followed by the change of the volume for a unit step of each latent. Principal axes mix
    motions of equal size, whereas independent components separate motions that are statistically independent. A large motion
    follows a curve that spans more than one latent dimension. The function therefore computes components in all dimensions.
    Components that only describe curvature change the volume less and are sorted after the motions.
    """
    z = latents.cpu().double().numpy()
    middle = z.mean(0)
    _, scales, principal = np.linalg.svd(z - middle, full_matrices=False)
    used = int((scales > 1e-6 * max(scales[0], 1e-12)).sum()) or 1
    plane = (z - middle) @ principal[:used].T
    if used > 1:
        fitted = FastICA(used, whiten="unit-variance", max_iter=2000, tol=1e-5, random_state=seed).fit(plane)
        readout, directions = fitted.components_ @ principal[:used], fitted.mixing_.T @ principal[:used]
    else:
        scale = max(plane.std(), 1e-12)
        readout, directions = principal[:1] / scale, scale * principal[:1]
    change = directions @ basis[1:].flatten(1).cpu().double().numpy()  # change of the volume for a unit step
    order = np.argsort(-np.linalg.norm(change, axis=1), kind="stable")[:count]
    readout, directions = readout[order], directions[order]
    largest = directions[np.arange(len(order)), np.abs(directions).argmax(1)]
    sign = np.where(largest < 0, -1.0, 1.0)[:, None]  # fix the free sign of an axis: its largest component is positive
    readout, directions = sign * readout, sign * directions
    coordinates = (z - middle) @ readout.T
    return LatentAxes(*(torch.from_numpy(part).float() for part in (coordinates, middle, directions, readout)))


def latent_path(latents: Float[Tensor, "n q"], points: int) -> Float[Tensor, "{points} q"]:
    """Return equally spaced latents along the first principal axis, from its 5th to its 95th percentile."""
    centre = latents.mean(0)
    axis = torch.linalg.svd(latents - centre, full_matrices=False).Vh[0]
    low, high = torch.quantile((latents - centre) @ axis, torch.tensor([0.05, 0.95], device=latents.device))
    return centre + torch.linspace(float(low), float(high), points, device=latents.device)[:, None] * axis


def density_path(
    latents: Float[Tensor, "n q"], ends: Float[Tensor, "2 q"], points: int, components: Float[Tensor, "q box box box"]
) -> Float[Tensor, "{points} q"]:
    """Return latents along a path that follows the density of the particles, from the first end to the second.

    The path is the shortest path on the graph of nearest particles, where a step costs the fourth power of its distance. The
    distance of two latents is the norm of the difference of their volumes; ``components`` contains the change of the volume for
    a unit step along each latent dimension. A straight path may cross regions without particles, where V(z) may be a
    conformation that no image shows. This path avoids such regions if possible. The path is smoothed. It starts and ends at the
    particles nearest to the ends. Its points are equally spaced in steps, and therefore dense where the particles are dense.
    """
    flat = components.flatten(1).double()
    scales, axes = torch.linalg.eigh(flat @ flat.T)
    metric = axes * scales.clamp(min=0).sqrt()
    places = (latents.cpu().double() @ metric.cpu()).numpy()
    first, last = _nearest(places, (ends.cpu().double() @ metric.cpu()).numpy(), 1)[1][:, 0].tolist()
    graph = _neighbour_graph(places)
    graph.data = graph.data**POWER
    before = dijkstra(graph, directed=False, indices=first, return_predecessors=True)[1]
    steps = [last]
    while steps[-1] != first:
        steps.append(int(before[steps[-1]]))
    return _smooth(latents[steps[::-1]], points)


def _neighbour_graph(places: Float[np.ndarray, "n q"]) -> csr_array:
    """Return the graph of nearest particles, with distances as weights; the shortest possible edges join separate parts."""
    count = len(places)
    distances, nearest = _nearest(places, places, min(NEIGHBOURS + 1, count))  # the particle itself is among them
    own = np.repeat(np.arange(count), distances.shape[1])
    graph = csr_array((distances.ravel() + LEAST_STEP, (own, nearest.ravel())), shape=(count, count))
    while (found := connected_components(graph, directed=False))[0] > 1:
        graph = graph.maximum(_bridges(places, found[1]))
    return graph


def _bridges(places: Float[np.ndarray, "n q"], part: Int[np.ndarray, " n"]) -> csr_array:
    """Return the shortest edge from each part of a graph to the other parts."""
    edges = []
    for number in range(part.max() + 1):
        own, others = np.flatnonzero(part == number), np.flatnonzero(part != number)
        distances, nearest = _nearest(places[others], places[own], 1)
        shortest = distances.argmin()
        edges.append((own[shortest], others[nearest[shortest, 0]], distances[shortest, 0] + LEAST_STEP))
    rows, columns, weights = zip(*edges, strict=True)
    return csr_array((weights, (rows, columns)), shape=(len(places), len(places)))


def _nearest(
    places: Float[np.ndarray, "n q"], asked: Float[np.ndarray, "m q"], count: int
) -> tuple[Float[np.ndarray, "m {count}"], Int[np.ndarray, "m {count}"]]:
    """Return the distances and the rows of the ``count`` places that are nearest to each place in ``asked``."""
    distances, rows = cKDTree(places).query(asked, np.arange(1, count + 1))
    return np.asarray(distances), np.asarray(rows)


def _smooth(path: Float[Tensor, "m q"], points: int) -> Float[Tensor, "{points} q"]:
    """Smooth a path by a Gaussian that becomes narrower towards both ends, and return points equally spaced in steps."""
    last = len(path) - 1
    places, steps = torch.linspace(0, last, points, device=path.device), torch.arange(last + 1, device=path.device)
    widths = (torch.minimum(places, last - places) / 2).clamp(1e-3, SMOOTHING)
    return torch.softmax(-0.5 * ((places[:, None] - steps) / widths[:, None]).square(), 1) @ path


@dataclass(frozen=True)
class EnergyLandscape:
    """The negative logarithm of the density of particles, in kT, on a grid of two coordinates.

    The energy is a free energy only if the particles are an equilibrium ensemble, their selection does not depend on the
    conformation, and the coordinates are exact; noise of the latents broadens each state and lowers barriers.

    - ``energy_kT``: energy relative to the densest cell, by the cells of x and y; NaN where the particles are too few.
    - ``error_kT``: its standard error, from a bootstrap of the particles.
    - ``centres``: centres of the cells along x and y.
    - ``bandwidth``: standard deviations of the Gaussian kernel along x and y.
    """

    energy_kT: Float[np.ndarray, "cells cells"]
    error_kT: Float[np.ndarray, "cells cells"]
    centres: Float[np.ndarray, "2 cells"]
    bandwidth: tuple[float, float]


def energy_landscape(coordinates: Float[np.ndarray, "n 2"], bootstraps: int = 100, seed: int = 0) -> EnergyLandscape:
    """Estimate the energy landscape of particles by a Gaussian kernel density, with errors by a bootstrap.

    Cross-validation between two random halves of the particles selects the width of the kernel along each axis.
    A bootstrap sample draws as many particles as there are, with replacement.
    """
    low, high = coordinates.min(0), coordinates.max(0)
    margin = MARGIN * np.maximum(high - low, 1e-12)
    edges = np.linspace(low - margin, high + margin, CELLS + 1)
    counts, _, _ = np.histogram2d(coordinates[:, 0], coordinates[:, 1], bins=(edges[:, 0], edges[:, 1]))
    random, total = np.random.default_rng(seed), len(coordinates)
    width = _choose_width(counts, random)
    drawn = random.multinomial(total, counts.ravel() / total, size=bootstraps).reshape(-1, CELLS, CELLS)
    density, *samples = (gaussian_filter(one.astype(float), width, mode="constant") for one in (counts, *drawn))
    covered = 4 * np.pi * np.prod(width) * density  # effective number of particles under the kernel
    energies = [-np.log(np.maximum(one, 1e-12) / one.max()) for one in (density, *samples)]
    known = covered >= LEAST_PARTICLES
    energy, error = (np.where(known, values, np.nan) for values in (energies[0], np.std(energies[1:], axis=0)))
    size = edges[1] - edges[0]
    return EnergyLandscape(
        energy, error, edges[:-1].T + size[:, None] / 2, (width[0] * float(size[0]), width[1] * float(size[1]))
    )


def _choose_width(counts: Float[np.ndarray, "cells cells"], random: np.random.Generator) -> tuple[float, float]:
    """Choose the widths of the kernel, in cells, by the likelihood of one random half of the particles given the other."""
    first = random.binomial(counts.astype(int), 0.5).astype(float)
    halves = (first, counts - first)

    def likelihood(width: tuple[float, float]) -> float:
        densities = (gaussian_filter(half, width, mode="constant") for half in halves)
        return sum(
            float((other * np.log(np.maximum(one, 1e-12))).sum()) for one, other in zip(densities, halves[::-1], strict=True)
        )

    return max(product(WIDTHS, WIDTHS), key=likelihood)
