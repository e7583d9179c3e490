"""The result of the *ab initio* start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.particles.metadata import Poses

Tensors = dict[str, Tensor]  # by name


@dataclass(frozen=True)
class Start:
    """The result of the *ab initio* start: a linear subspace of volumes, and the pose and latent of each image.

    - ``basis``: the mean volume and the ``q`` components, scaled for z ~ N(0, I).
    - ``poses``, ``latents``: the state of each image.
    - ``route``: the chosen route.
    - ``scores``: the held-out log-likelihood per image, by route.
    - ``shift_extent``: extent of the shift grid of the searches, as a fraction of the box; None if unknown.
    """

    basis: Float[Tensor, "volumes box box box"]
    poses: Poses
    latents: Float[Tensor, "n q"]
    route: str
    scores: dict[str, float]
    shift_extent: float | None = None

    def to(self, device: torch.device | str) -> Start:
        """Copy to another device."""
        return replace(self, basis=self.basis.to(device), poses=self.poses.to(device), latents=self.latents.to(device))

    def tensors(self) -> Tensors:
        """Return the tensors by name, without ``route``, ``scores`` and ``shift_extent``."""
        return {
            "basis": self.basis,
            "rotations": self.poses.rotations,
            "shifts_px": self.poses.shifts_px,
            "latents": self.latents,
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], route: str, scores: dict[str, float]) -> Start:
        """Rebuild a start from its :meth:`tensors`."""
        return cls(tensors["basis"], Poses(tensors["rotations"], tensors["shifts_px"]), tensors["latents"], route, scores)
