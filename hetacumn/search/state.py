"""Poses and latents of images, and the log joint to second order about them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hetacumn.particles.metadata import Poses
from hetacumn.physics.rotations import turn


@dataclass(frozen=True)
class State:
    """Poses and latents ``(b, q)`` of ``b`` images."""

    poses: Poses
    latents: Tensor

    def __getitem__(self, rows) -> State:
        return State(self.poses[rows], self.latents[rows])

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.latents.device

    def to(self, device: torch.device | str) -> State:
        """The same on another device."""
        return State(self.poses.to(device), self.latents.to(device))

    def where(self, condition: Tensor, other: State) -> State:
        """This where the condition ``(b,)`` holds, ``other`` elsewhere."""
        return State(
            Poses(
                torch.where(condition[:, None, None], self.poses.rotations, other.poses.rotations),
                torch.where(condition[:, None], self.poses.shifts_px, other.poses.shifts_px),
            ),
            torch.where(condition[:, None], self.latents, other.latents),
        )

    def moved(self, step: Tensor, most_deg: float = 20.0, most_px: float = 1.0) -> State:
        """After a step ``(b, 5 + q)``: rotation vector in degrees, shift in pixels, z; too long ones are cut."""
        vectors_deg = step[:, :3] * (most_deg / step[:, :3].norm(dim=1, keepdim=True).clamp(min=most_deg))
        shifts = self.poses.shifts_px + step[:, 3:5].clamp(-most_px, most_px)
        return State(Poses(turn(self.poses.rotations, vectors_deg), shifts), self.latents + step[:, 5:])

    def replaced(self, rows: Tensor, other: State) -> State:
        """This with other states at the given ``rows``, an index of images."""
        return State(
            Poses(
                self.poses.rotations.index_copy(0, rows, other.poses.rotations),
                self.poses.shifts_px.index_copy(0, rows, other.poses.shifts_px),
            ),
            self.latents.index_copy(0, rows, other.latents),
        )

    @staticmethod
    def cat(states: list[State]) -> State:
        """Several states one after the other."""
        poses = Poses(torch.cat([s.poses.rotations for s in states]), torch.cat([s.poses.shifts_px for s in states]))
        return State(poses, torch.cat([s.latents for s in states]))


@dataclass(frozen=True)
class Quadratic:
    """The log joint about a state: ``value`` ``(b,)``, ``slope`` ``(b, p)`` and ``curvature`` ``(b, p, p)``, ``p = 5 + q``,
    in degrees, pixels and z. The curvature is that of Gauss-Newton, z's prior included."""

    value: Tensor
    slope: Tensor
    curvature: Tensor

    def where(self, condition: Tensor, other: Quadratic) -> Quadratic:
        """This where the condition ``(b,)`` holds, ``other`` elsewhere."""
        return Quadratic(
            torch.where(condition, self.value, other.value),
            torch.where(condition[:, None], self.slope, other.slope),
            torch.where(condition[:, None, None], self.curvature, other.curvature),
        )

    @staticmethod
    def cat(parts: list[Quadratic]) -> Quadratic:
        """Several one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Quadratic(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Quadratic)))

    def step(self, damping: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """The damped step ``(b, p)`` towards the maximum; the log joint ``(b,)`` and the Laplace evidence expected there."""
        damped = self.curvature.clone()
        diagonal = damped.diagonal(dim1=1, dim2=2)
        diagonal.mul_(1 + damping).add_(1e-4)
        factor, _ = torch.linalg.cholesky_ex(damped)
        move = torch.cholesky_solve(self.slope[..., None], factor).squeeze(-1)
        half_log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        value = self.value + 0.5 * (self.slope * move).sum(1)
        return move, value, value - half_log_det
