"""Image to conformation, and pose given conformation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetacumn.particles import Poses
from hetacumn.so3 import from_6d


@dataclass(frozen=True)
class Hypotheses:
    """Several poses an image may have: ``rotations`` ``(b, h, 3, 3)``, ``shifts_px`` ``(b, h, 2)``, ``logits`` ``(b, h)``."""

    rotations: Tensor
    shifts_px: Tensor
    logits: Tensor

    def best(self) -> Poses:
        """The one of the highest logit."""
        return self.pick(self.logits.argmax(dim=1))

    def pick(self, which: Tensor) -> Poses:
        """The ``which[i]``-th of each image."""
        rows = torch.arange(len(which), device=which.device)
        return Poses(self.rotations[rows, which], self.shifts_px[rows, which])


class TemplateStem(nn.Module):
    """First layer as matched filters: inner products of the image with ``n`` templates, normalised and rectified.

    Started from projections of the ab initio volumes at random poses, it is a coarse grid search that then learns;
    started from noise, an ordinary dense layer. Some three times cheaper than the convolutions, and it learns poses from
    a third of the images.
    """

    def __init__(self, box: int, templates: int):
        super().__init__()
        self.filters = nn.Linear(box * box, templates)
        self.norm = nn.LayerNorm(templates)

    @torch.no_grad()
    def start_from(self, images: Tensor) -> None:
        """Take ``(n, box, box)`` images, each scaled to norm 1, as the templates."""
        flat = images.flatten(1)
        self.filters.weight.copy_(flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12))
        self.filters.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.norm(self.filters(images.flatten(1))))


class ConvolutionStem(nn.Sequential):
    """3×3 convolutions, every other one with stride 2, flattened."""

    def __init__(self, box: int, channels: tuple[int, ...] = (32, 64, 64, 128, 128)):
        blocks: list[nn.Module] = [nn.Unflatten(1, (1, box))]
        before, size = 1, box
        for i, after in enumerate(channels):
            stride = 2 if i % 2 == 0 else 1
            blocks += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
            before, size = after, -(-size // stride)
        super().__init__(*blocks, nn.Flatten())
        self.width = before * size * size
        self.to(memory_format=torch.channels_last)


def _dense(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]


class Encoder(nn.Module):
    """E: an image ``(b, box, box)`` to features, features to q(z), and features with z to poses.

    The input is the CTF-multiplied image: with white noise it carries all that the likelihood uses.
    ``templates`` is the number of matched filters of the stem; 0 for convolutions instead.
    """

    def __init__(self, box: int, latent_dim: int, width: int = 512, hypotheses: int = 4, conditional: bool = True,
                 templates: int = 2048):
        super().__init__()
        self.latent_dim, self.hypotheses, self.conditional = latent_dim, hypotheses, conditional
        self.stem = TemplateStem(box, templates) if templates else ConvolutionStem(box)
        seen = templates or self.stem.width
        inner = 2 * width if templates else width
        self.body = nn.Sequential(*_dense(seen, inner), *_dense(inner, inner), *_dense(inner, width))
        self.to_latent = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * latent_dim))
        self.to_pose = nn.Sequential(*_dense(width + latent_dim, width), nn.Linear(width, 9 * hypotheses))

    def features(self, images: Tensor) -> Tensor:
        """``(b, box, box)`` to ``(b, width)``."""
        return self.body(self.stem(images))

    def latent(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(b, q)`` of q(z | Y)."""
        mean, log_variance = self.to_latent(features).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 2)

    def pose(self, features: Tensor, z: Tensor) -> Hypotheses:
        """Poses given features and ``z`` ``(b, q)``."""
        given = z if self.conditional else torch.zeros_like(z)
        out = self.to_pose(torch.cat([features, given.to(features.dtype)], dim=1)).float()
        out = out.unflatten(1, (self.hypotheses, 9))
        return Hypotheses(from_6d(out[..., :6]), out[..., 6:8], out[..., 8])
