"""Image to conformation, and pose given conformation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from hetacumn.compute.precision import autocast
from hetacumn.network.config import NetworkConfig
from hetacumn.particles.metadata import Poses
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.rotations import from_6d


@dataclass(frozen=True)
class Hypotheses:
    """Several poses that each image may have."""

    rotations: Float[Tensor, "b h 3 3"]
    shifts_px: Float[Tensor, "b h 2"]
    logits: Float[Tensor, "b h"]

    def best(self) -> Poses:
        """Pick the pose of the highest logit of each image."""
        return self.pick(self.logits.argmax(dim=1))

    def likelier(self, count: int) -> list[Poses]:
        """List the poses of the ``count`` highest logits of each image, or all poses, the highest first."""
        order = self.logits.argsort(dim=1, descending=True)
        return [self.pick(which) for which in order[:, :count].unbind(1)]

    def pick(self, which: Int[Tensor, " b"]) -> Poses:
        """Pick hypothesis ``which[i]`` of image ``i``."""
        rows = torch.arange(len(which), device=which.device)
        return Poses(self.rotations[rows, which], self.shifts_px[rows, which])


HIGHEST_FREQUENCY = 24  # integer: a rough pose and class need no finer features, however fine the pixels
Draw = Callable[[int], Complex[Tensor, "n m"]]  # draws a number of noise-free packed images


class TemplateStem(nn.Module):
    """First layer as matched filters: inner products of the image with ``templates``, normalised and rectified.

    The filters see the packed coefficients within ``radius`` (cycles per pixel) and :data:`HIGHEST_FREQUENCY`, where an inner
    product equals the product of the low-passed images and costs at most a quarter of a product over pixels. Filters that start
    as projections of the ab initio volumes at random poses are a coarse grid search that then learns; filters that start as
    noise are an ordinary dense layer.
    """

    scale: Float[Tensor, " used"]

    def __init__(self, plane: HalfPlane, templates: int, radius: float) -> None:
        super().__init__()
        self.used = plane.count(min(radius * plane.box, HIGHEST_FREQUENCY))
        self.register_buffer("scale", plane.weight[: self.used].sqrt().cpu(), persistent=False)
        self.filters = nn.Linear(2 * self.used, templates)
        self.norm = nn.LayerNorm(templates)
        self.width = templates

    def _flat(self, coefficients: Complex[Tensor, "b m"]) -> Float[Tensor, "b {2*self.used}"]:
        return torch.view_as_real(coefficients[:, : self.used] * self.scale).flatten(1)

    @torch.no_grad()
    def start_from(self, draw: Draw) -> None:
        """Take drawn images, each scaled to norm 1, as the templates."""
        flat = self._flat(draw(self.width))
        self.filters.weight.copy_(flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12))
        self.filters.bias.zero_()

    def forward(self, coefficients: Complex[Tensor, "b m"]) -> Float[Tensor, "b {self.width}"]:
        """Compute the response of each filter to each image."""
        return torch.relu(self.norm(self.filters(self._flat(coefficients))))


class ConvolutionStem(nn.Module):
    """3×3 convolutions on the image, every other one with stride 2, flattened."""

    def __init__(self, plane: HalfPlane, channels: tuple[int, ...] = (32, 64, 64, 128, 128)) -> None:
        super().__init__()
        self.plane, self.used = plane, len(plane)
        blocks: list[nn.Module] = []
        before, size = 1, plane.box
        for i, after in enumerate(channels):
            stride = 2 if i % 2 == 0 else 1
            blocks += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
            before, size = after, -(-size // stride)
        layers = nn.Sequential(*blocks, nn.Flatten())
        self.layers = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.width = before * size * size

    def start_from(self, draw: Draw) -> None:
        """Do nothing: convolutions have no templates."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConvolutionStem:
        self.plane = self.plane.applied(fn)  # it goes where the layers go
        return super()._apply(fn, recurse)

    def forward(self, coefficients: Complex[Tensor, "b m"]) -> Float[Tensor, "b {self.width}"]:
        """Compute the flattened feature maps of each image."""
        images = self.plane.unpack(coefficients)[:, None]
        return self.layers(images.contiguous(memory_format=torch.channels_last))


def _dense(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]


class Encoder(nn.Module):
    """Encoder E: from a packed image to features, from features to q(z), and from features and z to poses.

    The encoder sees the Wiener estimate of the whitened particle, ``Y C √P / (C² P + 1)`` with ``P`` the power of the
    particles in units of the noise: the estimate undoes the CTF where the signal is strong, is the matched filter where the
    signal is weak, and lets no band outweigh another. ``power`` is P, see
    :func:`~hetacumn.particles.observations.signal_power`.
    """

    amplitude: Float[Tensor, " m"]

    def __init__(
        self, plane: HalfPlane, latent_dim: int, network: NetworkConfig, power: Float[Tensor, " m"] | None = None
    ) -> None:
        super().__init__()
        width, hypotheses, templates = network.width, network.hypotheses, network.templates
        self.latent_dim, self.hypotheses, self.conditional = latent_dim, hypotheses, network.conditional
        self.register_buffer("amplitude", torch.ones(len(plane)) if power is None else power.sqrt().cpu())
        self.stem: TemplateStem | ConvolutionStem
        self.stem = TemplateStem(plane, templates, network.encoder_radius) if templates else ConvolutionStem(plane)
        self.used = self.stem.used
        inner = width * 3 // 2
        self.body = nn.Sequential(*_dense(self.stem.width, inner), *_dense(inner, width))
        self.to_latent = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * latent_dim))
        self.to_pose = nn.Sequential(*_dense(width + latent_dim, width), nn.Linear(width, 9 * hypotheses))

    def features(self, images: Complex[Tensor, "b m"], ctf: Float[Tensor, "b m"]) -> Float[Tensor, "b width"]:
        """Compute the features of packed images with their CTFs, of which the first ``used`` coefficients matter."""
        signal = ctf[:, : self.used] * self.amplitude[: self.used]
        estimate = images[:, : self.used] * (signal / (signal.square() + 1))
        with autocast(images.device):
            return self.body(self.stem(estimate))

    def start_from(self, draw: Draw) -> None:
        """Start the matched filters of the stem from drawn images of the molecule."""
        self.stem.start_from(lambda count: draw(count) / self.amplitude)

    def latent(
        self, features: Float[Tensor, "b width"]
    ) -> tuple[Float[Tensor, "b {self.latent_dim}"], Float[Tensor, "b {self.latent_dim}"]]:
        """Compute mean and log variance of q(z | Y)."""
        with autocast(features.device):
            out = self.to_latent(features)
        mean, log_variance = out.float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 2)

    def pose(self, features: Float[Tensor, "b width"], z: Float[Tensor, "b {self.latent_dim}"]) -> Hypotheses:
        """Predict poses given features and latents."""
        given = z if self.conditional else torch.zeros_like(z)
        with autocast(features.device):
            out = self.to_pose(torch.cat([features, given.to(features.dtype)], dim=1))
        out = out.float().unflatten(1, (self.hypotheses, 9))
        return Hypotheses(from_6d(out[..., :6]), out[..., 6:8], out[..., 8])
