"""The result of an ab initio start."""

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
    """The result of an ab initio start: a ``basis`` of mean volume and components, for z ~ N(0, I), and the images' states.

    The basis has ``1 + q`` volumes. ``scores`` are the held-out log-likelihoods per image by route. ``route`` is the chosen
    route.
    """

    basis: Float[Tensor, "volumes box box box"]
    poses: Poses
    latents: Float[Tensor, "n q"]
    route: str
    scores: dict[str, float]

    def to(self, device: torch.device | str) -> Start:
        """Copy to another device."""
        return replace(self, basis=self.basis.to(device), poses=self.poses.to(device), latents=self.latents.to(device))

    def tensors(self) -> Tensors:
        """Return the tensors that a file keeps; ``route`` and ``scores`` are kept beside them."""
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
