"""The encoder, which predicts from an image its latent z, and its pose given z."""

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
    """The ``h`` pose hypotheses of each image: rotations, shifts in pixels, and logits of their probabilities."""

    rotations: Float[Tensor, "b h 3 3"]
    shifts_px: Float[Tensor, "b h 2"]
    logits: Float[Tensor, "b h"]

    def __getitem__(self, rows: Int[Tensor, " c"]) -> Hypotheses:
        return Hypotheses(self.rotations[rows], self.shifts_px[rows], self.logits[rows])

    def best(self) -> Poses:
        """Return the hypothesis of the highest logit of each image."""
        return self.pick(self.logits.argmax(dim=1))

    def likelier(self, count: int) -> list[Poses]:
        """Return the ``count`` likeliest hypotheses (or all, if fewer); the first entry holds the likeliest of every image."""
        order = self.logits.argsort(dim=1, descending=True)
        return [self.pick(which) for which in order[:, :count].unbind(1)]

    def pick(self, which: Int[Tensor, " b"]) -> Poses:
        """Return hypothesis ``which[i]`` of image ``i``."""
        rows = torch.arange(len(which), device=which.device)
        return Poses(self.rotations[rows, which], self.shifts_px[rows, which])


HIGHEST_FREQUENCY = 24  # integer frequency; a first pose and z need no finer features, also at small pixels
Draw = Callable[[int], Complex[Tensor, "n m"]]  # returns the Fourier coefficients of this number of noise-free images


class TemplateStem(nn.Module):
    """A first layer of matched filters: inner products of the image with ``templates`` images, normalised and rectified.

    The filters read the Fourier coefficients within ``radius`` (cycles per pixel) and :data:`HIGHEST_FREQUENCY`. Their inner
    product equals the inner product of the low-pass filtered images, and costs at most a quarter of a product over pixels.
    Filters initialised with projections of the start's volumes at random poses act as a coarse grid search, which training
    then improves. Filters initialised with noise are an ordinary dense layer.
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
        """Set the filters to rendered images, each scaled to norm 1."""
        flat = self._flat(draw(self.width))
        self.filters.weight.copy_(flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12))
        self.filters.bias.zero_()

    def forward(self, coefficients: Complex[Tensor, "b m"]) -> Float[Tensor, "b {self.width}"]:
        """Compute the response of each filter to each image."""
        return torch.relu(self.norm(self.filters(self._flat(coefficients))))


class ConvolutionStem(nn.Module):
    """A first layer of 3×3 convolutions on the image, every other one with stride 2, whose output is flattened."""

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
        self.plane = self.plane.applied(fn)  # the half-plane moves to the device of the layers
        return super()._apply(fn, recurse)

    def forward(self, coefficients: Complex[Tensor, "b m"]) -> Float[Tensor, "b {self.width}"]:
        """Compute the flattened feature maps of each image."""
        images = self.plane.unpack(coefficients)[:, None]
        return self.layers(images.contiguous(memory_format=torch.channels_last))


def _dense(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]


class Encoder(nn.Module):
    """The encoder: from an image to features, from features to q(z | Y), and from features and z to pose hypotheses.

    The input is the Wiener estimate of the whitened particle, ``Y C √P / (C² P + 1)``, with ``P`` the power of the particles in
    units of the noise. The estimate undoes the CTF where the signal is strong, equals the matched filter where the signal is
    weak, and balances the frequency bands. ``power`` is P, from :func:`~hetacumn.particles.observations.signal_power`; None
    stands for 1.
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
        """Compute features from the first ``used`` Fourier coefficients of images and from their CTFs."""
        signal = ctf[:, : self.used] * self.amplitude[: self.used]
        estimate = images[:, : self.used] * (signal / (signal.square() + 1))
        with autocast(images.device):
            return self.body(self.stem(estimate))

    def start_from(self, draw: Draw) -> None:
        """Initialise the matched filters with rendered images of the molecule."""
        self.stem.start_from(lambda count: draw(count) / self.amplitude)

    def latent(
        self, features: Float[Tensor, "b width"]
    ) -> tuple[Float[Tensor, "b {self.latent_dim}"], Float[Tensor, "b {self.latent_dim}"]]:
        """Compute mean and log variance of q(z | Y); the log variance is limited to [-10, 2]."""
        with autocast(features.device):
            out = self.to_latent(features)
        mean, log_variance = out.float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 2)

    def pose(self, features: Float[Tensor, "b width"], z: Float[Tensor, "b {self.latent_dim}"]) -> Hypotheses:
        """Predict pose hypotheses given features and z; an unconditional encoder ignores z."""
        given = z if self.conditional else torch.zeros_like(z)
        with autocast(features.device):
            out = self.to_pose(torch.cat([features, given.to(features.dtype)], dim=1))
        out = out.float().unflatten(1, (self.hypotheses, 9))
        return Hypotheses(from_6d(out[..., :6]), out[..., 6:8], out[..., 8])
