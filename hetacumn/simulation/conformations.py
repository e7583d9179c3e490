"""The conformations of simulated particles: discrete states, or a continuous motion."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.simulation.projection import project_atoms
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.structures import load_motion, load_states


class States:
    """Discrete states, of which one is sampled for each particle."""

    def __init__(self, settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> None:
        self.examples = load_states(settings.molecule, data_dir)
        k = len(self.examples)
        weights = settings.weights or (1 / k,) * k
        if len(weights) != k:
            raise HetacumnError(f"weights are {list(weights)}; expected one for each of {k} states")
        self.classes = torch.from_numpy(draw.choice(k, settings.particles, p=weights))
        self.coordinate = self.classes.float()

    def project(
        self, rows: slice, rotations: Float[Tensor, "b 3 3"], box: int, pixel_A: float
    ) -> Float[Tensor, "b {box} {box}"]:
        """Project the conformations of the particles in ``rows`` at their rotations."""
        images = torch.empty(len(rotations), box, box, device=rotations.device)
        for k in self.classes[rows].unique():
            members = self.classes[rows] == k
            images[members] = project_atoms(self.examples[k].to(rotations.device), rotations[members], box, pixel_A)
        return images


class Motion:
    """A continuous motion; the progress of each moving part is sampled uniformly and independently for each particle."""

    def __init__(self, settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> None:
        if settings.weights is not None:
            raise HetacumnError("weights are given for a continuous motion; expected weights for discrete states only")
        motion = load_motion(settings.molecule, data_dir)
        self._move, count, parts = motion.move, len(motion.names), settings.motion_classes
        middles = (torch.arange(parts) + 0.5) / parts
        self.examples = [self._move(torch.stack(t)) for t in itertools.product(middles, repeat=count)]
        self.coordinate = torch.from_numpy(draw.random((settings.particles, count))).float()
        place = (self.coordinate * parts).long().clamp(max=parts - 1)
        self.classes = (place * parts ** torch.arange(count).flip(0)).sum(1)

    def project(
        self, rows: slice, rotations: Float[Tensor, "b 3 3"], box: int, pixel_A: float
    ) -> Float[Tensor, "b {box} {box}"]:
        """Project the conformations of the particles in ``rows`` at their rotations."""
        return project_atoms(self._move(self.coordinate[rows]).to(rotations.device), rotations, box, pixel_A)


def load_conformations(settings: Simulation, draw: np.random.Generator, data_dir: Path | str) -> States | Motion:
    """Load the structures of the settings and sample a conformation for each particle."""
    return (Motion if settings.continuous else States)(settings, draw, data_dir)
