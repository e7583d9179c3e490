"""Image to conformation, and pose given conformation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetacumn.compute.precision import autocast
from hetacumn.network.config import NetworkConfig
from hetacumn.particles.metadata import Poses
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.rotations import from_6d


@dataclass(frozen=True)
class Hypotheses:
    """Several poses an image may have: rotations ``(b, h, 3, 3)``, shifts in pixels ``(b, h, 2)``, logits ``(b, h)``."""

    rotations: Tensor
    shifts_px: Tensor
    logits: Tensor

    def best(self) -> Poses:
        """The one of the highest logit."""
        return self.pick(self.logits.argmax(dim=1))

    def likelier(self, count: int) -> list[Poses]:
        """The ``count`` of the highest logits, or all, the highest first."""
        order = self.logits.argsort(dim=1, descending=True)
        return [self.pick(which) for which in order[:, :count].unbind(1)]

    def pick(self, which: Tensor) -> Poses:
        """The ``which[i]``-th of each image."""
        rows = torch.arange(len(which), device=which.device)
        return Poses(self.rotations[rows, which], self.shifts_px[rows, which])


HIGHEST_FREQUENCY = 24  # integer: a rough pose and class need no finer features, however fine the pixels
Draw = Callable[[int], Tensor]  # so many noise-free packed images ``(n, m)``


class TemplateStem(nn.Module):
    """First layer as matched filters: inner products of the image with ``n`` templates, normalised and rectified.

    It works on the packed coefficients within ``radius`` (cycles per pixel) and :data:`HIGHEST_FREQUENCY`, where an inner
    product is that of the low-passed images and costs at most a quarter of one over pixels. Started from projections of the
    ab initio volumes at random poses it is a coarse grid search that then learns; started from noise, an ordinary dense layer.
    """

    def __init__(self, plane: HalfPlane, templates: int, radius: float):
        super().__init__()
        self.used = plane.count(min(radius * plane.box, HIGHEST_FREQUENCY))
        self.register_buffer("scale", plane.weight[: self.used].sqrt().cpu(), persistent=False)
        self.filters = nn.Linear(2 * self.used, templates)
        self.norm = nn.LayerNorm(templates)
        self.width = templates

    def _flat(self, coefficients: Tensor) -> Tensor:
        return torch.view_as_real(coefficients[:, : self.used] * self.scale).flatten(1)

    @torch.no_grad()
    def start_from(self, draw: Draw) -> None:
        """Take drawn images, each scaled to norm 1, as the templates."""
        flat = self._flat(draw(self.width))
        self.filters.weight.copy_(flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12))
        self.filters.bias.zero_()

    def forward(self, coefficients: Tensor) -> Tensor:
        return torch.relu(self.norm(self.filters(self._flat(coefficients))))


class ConvolutionStem(nn.Module):
    """3×3 convolutions on the image, every other one with stride 2, flattened."""

    def __init__(self, plane: HalfPlane, channels: tuple[int, ...] = (32, 64, 64, 128, 128)):
        super().__init__()
        self.plane, self.used = plane, len(plane)
        blocks: list[nn.Module] = []
        before, size = 1, plane.box
        for i, after in enumerate(channels):
            stride = 2 if i % 2 == 0 else 1
            blocks += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
            before, size = after, -(-size // stride)
        self.layers = nn.Sequential(*blocks, nn.Flatten()).to(memory_format=torch.channels_last)
        self.width = before * size * size

    def start_from(self, draw: Draw) -> None:
        """Stay as it is: convolutions have no templates."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConvolutionStem:
        self.plane = self.plane.applied(fn)  # it goes where the layers go
        return super()._apply(fn, recurse)

    def forward(self, coefficients: Tensor) -> Tensor:
        images = self.plane.unpack(coefficients)[:, None]
        return self.layers(images.contiguous(memory_format=torch.channels_last))


def _dense(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]


class Encoder(nn.Module):
    """E: a packed image ``(b, m)`` to features, features to q(z), and features with z to poses.

    What it sees is the Wiener estimate of the whitened particle, ``Y C √P / (C² P + 1)`` with ``P`` the power of the
    particles in units of the noise: the CTF is undone where the signal is strong, the matched filter where it is weak,
    and no band outweighs another. ``power`` ``(m,)`` is P, see :func:`~hetacumn.particles.observations.signal_power`.
    """

    def __init__(self, plane: HalfPlane, latent_dim: int, network: NetworkConfig, power: Tensor | None = None):
        super().__init__()
        width, hypotheses, templates = network.width, network.hypotheses, network.templates
        self.latent_dim, self.hypotheses, self.conditional = latent_dim, hypotheses, network.conditional
        self.register_buffer("amplitude", torch.ones(len(plane)) if power is None else power.sqrt().cpu())
        self.stem = TemplateStem(plane, templates, network.encoder_radius) if templates else ConvolutionStem(plane)
        self.used = self.stem.used
        inner = width * 3 // 2
        self.body = nn.Sequential(*_dense(self.stem.width, inner), *_dense(inner, width))
        self.to_latent = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * latent_dim))
        self.to_pose = nn.Sequential(*_dense(width + latent_dim, width), nn.Linear(width, 9 * hypotheses))

    def features(self, images: Tensor, ctf: Tensor) -> Tensor:
        """Packed images ``(b, m)`` and their CTFs ``(b, m)`` to ``(b, width)``; the first ``used`` coefficients matter."""
        signal = ctf[:, : self.used] * self.amplitude[: self.used]
        estimate = images[:, : self.used] * (signal / (signal.square() + 1))
        with autocast(images.device):
            return self.body(self.stem(estimate))

    def start_from(self, draw: Draw) -> None:
        """Take as many drawn images of the molecule as the stem has matched filters, as these filters."""
        self.stem.start_from(lambda count: draw(count) / self.amplitude)

    def latent(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(b, q)`` of q(z | Y)."""
        with autocast(features.device):
            out = self.to_latent(features)
        mean, log_variance = out.float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 2)

    def pose(self, features: Tensor, z: Tensor) -> Hypotheses:
        """Poses given features and ``z`` ``(b, q)``."""
        given = z if self.conditional else torch.zeros_like(z)
        with autocast(features.device):
            out = self.to_pose(torch.cat([features, given.to(features.dtype)], dim=1))
        out = out.float().unflatten(1, (self.hypotheses, 9))
        return Hypotheses(from_6d(out[..., :6]), out[..., 6:8], out[..., 8])
