"""The state of images (poses and latents), and the log joint to second order about a state."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hetacumn.particles.metadata import Poses
from hetacumn.physics.optics import Rows
from hetacumn.physics.rotations import turn


@dataclass(frozen=True)
class State:
    """The poses and the latents of images."""

    poses: Poses
    latents: Float[Tensor, "b q"]

    def __getitem__(self, rows: Rows) -> State:
        return State(self.poses[rows], self.latents[rows])

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return self.latents.device

    def to(self, device: torch.device | str) -> State:
        """Copy to another device."""
        return State(self.poses.to(device), self.latents.to(device))

    def where(self, condition: Bool[Tensor, " b"], fallback: State) -> State:
        """Keep this state where the condition holds, and take ``fallback`` elsewhere."""
        return State(
            Poses(
                torch.where(condition[:, None, None], self.poses.rotations, fallback.poses.rotations),
                torch.where(condition[:, None], self.poses.shifts_px, fallback.poses.shifts_px),
            ),
            torch.where(condition[:, None], self.latents, fallback.latents),
        )

    def moved(self, step: Float[Tensor, "b p"], most_deg: float = 20.0, most_px: float = 1.0) -> State:
        """Take a step of ``p = 5 + q`` numbers: rotation vector in degrees, shift in pixels, z.

        Turns are cut to ``most_deg`` and shifts to ``most_px``.
        """
        vectors_deg = step[:, :3] * (most_deg / step[:, :3].norm(dim=1, keepdim=True).clamp(min=most_deg))
        shifts = self.poses.shifts_px + step[:, 3:5].clamp(-most_px, most_px)
        return State(Poses(turn(self.poses.rotations, vectors_deg), shifts), self.latents + step[:, 5:])

    def replaced(self, rows: Int[Tensor, " c"], part: State) -> State:
        """Replace the states of the images ``rows`` by the states of ``part``."""
        return State(
            Poses(
                self.poses.rotations.index_copy(0, rows, part.poses.rotations),
                self.poses.shifts_px.index_copy(0, rows, part.poses.shifts_px),
            ),
            self.latents.index_copy(0, rows, part.latents),
        )

    @staticmethod
    def cat(states: list[State]) -> State:
        """Join states one after the other."""
        poses = Poses(torch.cat([s.poses.rotations for s in states]), torch.cat([s.poses.shifts_px for s in states]))
        return State(poses, torch.cat([s.latents for s in states]))


@dataclass(frozen=True)
class Quadratic:
    """The log joint about a state, to second order in the ``p = 5 + q`` numbers of each image.

    Slope and curvature are in degrees, pixels and z. The curvature is the Gauss-Newton curvature and includes z's prior.
    """

    value: Float[Tensor, " b"]
    slope: Float[Tensor, "b p"]
    curvature: Float[Tensor, "b p p"]

    def where(self, condition: Bool[Tensor, " b"], fallback: Quadratic) -> Quadratic:
        """Keep this expansion where the condition holds, and take ``fallback`` elsewhere."""
        return Quadratic(
            torch.where(condition, self.value, fallback.value),
            torch.where(condition[:, None], self.slope, fallback.slope),
            torch.where(condition[:, None, None], self.curvature, fallback.curvature),
        )

    @staticmethod
    def cat(parts: list[Quadratic]) -> Quadratic:
        """Join expansions one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Quadratic(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Quadratic)))

    def step(
        self, damping: Float[Tensor, "b 1"] | float
    ) -> tuple[Float[Tensor, "b p"], Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Compute the damped step towards the maximum, and the log joint and the Laplace evidence expected there."""
        damped = self.curvature.clone()
        diagonal = damped.diagonal(dim1=1, dim2=2)
        diagonal.mul_(1 + damping).add_(1e-4)
        factor, _ = torch.linalg.cholesky_ex(damped)
        move = torch.cholesky_solve(self.slope[..., None], factor).squeeze(-1)
        half_log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        value = self.value + 0.5 * (self.slope * move).sum(1)
        return move, value, value - half_log_det
