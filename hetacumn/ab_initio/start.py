"""The result of an ab initio start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hetacumn.particles.metadata import Poses

Tensors = dict[str, Tensor]  # by name


@dataclass(frozen=True)
class Start:
    """What the ab initio start found: ``basis`` ``(1 + q, box, box, box)``, mean and components, for z ~ N(0, I).

    ``poses`` and ``latents`` ``(n, q)`` of the images it saw; ``scores`` is the held-out log-likelihood per image of
    each route, ``route`` the one taken.
    """

    basis: Tensor
    poses: Poses
    latents: Tensor
    route: str
    scores: dict[str, float]

    def to(self, device: torch.device | str) -> Start:
        """The same on another device."""
        return replace(self, basis=self.basis.to(device), poses=self.poses.to(device), latents=self.latents.to(device))

    def tensors(self) -> Tensors:
        """All that a file keeps of it but ``route`` and ``scores``."""
        return {
            "basis": self.basis,
            "rotations": self.poses.rotations,
            "shifts_px": self.poses.shifts_px,
            "latents": self.latents,
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], route: str, scores: dict[str, float]) -> Start:
        """That of :meth:`tensors`."""
        return cls(tensors["basis"], Poses(tensors["rotations"], tensors["shifts_px"]), tensors["latents"], route, scores)
