"""The state of images (poses and latents), and the second-order expansion of the log joint about a state."""

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
    """The poses and latents of ``b`` images, with ``q`` latent dimensions."""

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
        """Return this state where the condition holds, and ``fallback`` elsewhere."""
        return State(
            Poses(
                torch.where(condition[:, None, None], self.poses.rotations, fallback.poses.rotations),
                torch.where(condition[:, None], self.poses.shifts_px, fallback.poses.shifts_px),
            ),
            torch.where(condition[:, None], self.latents, fallback.latents),
        )

    def moved(self, step: Float[Tensor, "b p"], most_deg: float = 20.0, most_px: float = 1.0) -> State:
        """Return the state after a step of ``p = 5 + q`` numbers: rotation vector in degrees, shift in pixels, z.

        A rotation is limited to ``most_deg``, and each component of a shift to ``most_px``.
        """
        vectors_deg = step[:, :3] * (most_deg / step[:, :3].norm(dim=1, keepdim=True).clamp(min=most_deg))
        shifts = self.poses.shifts_px + step[:, 3:5].clamp(-most_px, most_px)
        return State(Poses(turn(self.poses.rotations, vectors_deg), shifts), self.latents + step[:, 5:])

    def replaced(self, rows: Int[Tensor, " c"], part: State) -> State:
        """Return a copy in which ``part`` replaces the states of the images ``rows``."""
        return State(
            Poses(
                self.poses.rotations.index_copy(0, rows, part.poses.rotations),
                self.poses.shifts_px.index_copy(0, rows, part.poses.shifts_px),
            ),
            self.latents.index_copy(0, rows, part.latents),
        )

    @staticmethod
    def cat(states: list[State]) -> State:
        """Concatenate states over the images."""
        poses = Poses(torch.cat([s.poses.rotations for s in states]), torch.cat([s.poses.shifts_px for s in states]))
        return State(poses, torch.cat([s.latents for s in states]))


@dataclass(frozen=True)
class Quadratic:
    """The second-order expansion of the log joint in the ``p = 5 + q`` parameters of each image.

    The parameters are the rotation vector (degrees), the shift (pixels) and z. ``value`` is the log joint at the state,
    ``slope`` its gradient, and ``curvature`` the Gauss-Newton approximation of minus its Hessian. All three include the prior
    of z.
    """

    value: Float[Tensor, " b"]
    slope: Float[Tensor, "b p"]
    curvature: Float[Tensor, "b p p"]

    def where(self, condition: Bool[Tensor, " b"], fallback: Quadratic) -> Quadratic:
        """Return this expansion where the condition holds, and ``fallback`` elsewhere."""
        return Quadratic(
            torch.where(condition, self.value, fallback.value),
            torch.where(condition[:, None], self.slope, fallback.slope),
            torch.where(condition[:, None, None], self.curvature, fallback.curvature),
        )

    @staticmethod
    def cat(parts: list[Quadratic]) -> Quadratic:
        """Concatenate expansions over the images."""
        if len(parts) == 1:
            return parts[0]
        return Quadratic(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Quadratic)))

    def step(
        self, damping: Float[Tensor, "b 1"] | float
    ) -> tuple[Float[Tensor, "b p"], Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Compute the damped Gauss-Newton step, and the log joint and Laplace evidence that the expansion predicts after it.

        ``damping`` is relative to the diagonal of the curvature.
        """
        damped = self.curvature.clone()
        diagonal = damped.diagonal(dim1=1, dim2=2)
        diagonal.mul_(1 + damping).add_(1e-4)
        factor, _ = torch.linalg.cholesky_ex(damped)
        move = torch.cholesky_solve(self.slope[..., None], factor).squeeze(-1)
        half_log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        value = self.value + 0.5 * (self.slope * move).sum(1)
        return move, value, value - half_log_det
