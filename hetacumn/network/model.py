"""HetACUMN: one encoder and one decoder, trained on two tasks that run them in opposite orders.

Task 1, *variational image reconstruction*: image → (z, pose given z) → image. :meth:`HetACUMN.reconstruct`.

Task 2, *conditional pose prediction*: (z, a random pose) → image → pose given z. :meth:`HetACUMN.predict_drawn_poses`. Task 2
needs no labels, because it samples the pose itself. The encoder must predict the correct pose for every z. z therefore
describes only the conformation.

*Decoder feedback* is optional: the decoder renders the likelier pose hypotheses of an image, refines them and z by Gauss-Newton
steps, and scores which hypothesis fits best. Inference is then one forward pass through encoder and decoder. In task 1 the
encoder learns to predict the refined pose. In a *second look*, slices of the decoder's volumes propose other poses.

The method is from arXiv 2308.04956. Its abstract describes the two tasks, the shared encoder and decoder, and amortized
inference; the details of the losses are this project's own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from hetacumn.compute.processes import SINGLE_PROCESS, ProcessGroup
from hetacumn.network.config import Rounds, TrainConfig
from hetacumn.network.decoder import CoordinateDecoder, Decoder, Drawing, VoxelDecoder
from hetacumn.network.encoder import Encoder, Hypotheses
from hetacumn.network.feedback import FEEDBACK_HIGHEST, MOST_CENTRES, FeedbackTables, SecondLook, adapted, cluster_means
from hetacumn.network.losses import DrawnImages, LatentDraws, PosePrediction, Reconstruction, hypotheses_loss, kl_divergence
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import Observations, low_power, strong_images
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.rotations import inplane, random_rotations
from hetacumn.search.focus import WHOLE, Focus
from hetacumn.search.refinement import Tangent, compete, misfit
from hetacumn.search.state import State

NO_SECOND_LOOK = SecondLook()


class HetACUMN(nn.Module):
    """The two tasks over a shared encoder and decoder, for images with noise of unit variance.

    The constructor adapts rounds (:func:`~hetacumn.search.refinement.compete`), which are stated for small boxes, to the box.

    - ``symmetrised``: whether task 1 adds the hypotheses for the image rotated by 180°.
    - ``feedback``: rounds of decoder feedback on the encoder's hypotheses; without rounds, the encoder alone infers.
    - ``second_look``: settings of the second look; :meth:`calibrate` chooses the images and the latents ``centres``.
    """

    misfit_limit: Float[Tensor, ""]
    centres: Float[Tensor, "k q"]

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        symmetrised: bool = False,
        feedback: Rounds = (),
        second_look: SecondLook = NO_SECOND_LOOK,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.symmetrised = encoder, decoder, symmetrised
        self.feedback = adapted(feedback, decoder.box)
        self.second_look = replace(second_look, rounds=adapted(second_look.rounds, decoder.box))
        self.register_buffer("misfit_limit", torch.tensor(torch.inf))  # images above it get a second look
        self.register_buffer("centres", torch.zeros(second_look.volumes, encoder.latent_dim))

    def render(
        self,
        z: Float[Tensor, "b q"],
        poses: Poses,
        ctf: Float[Tensor, "b m"],
        plane: HalfPlane,
        drawing: Drawing | None = None,
    ) -> Complex[Tensor, "b m"]:
        """Render noise-free images of z at poses, with CTF and shift, by ``drawing`` or a new :meth:`Decoder.drawing`."""
        slices = (drawing or self.decoder.drawing())(z, poses.rotations, plane.k[: ctf.shape[1]])
        return plane.translate(slices * ctf, poses.shifts_px)

    # Task 1 ------------------------------------------------------------------------------------------------

    def reconstruct(
        self,
        data: Observations,
        radius: float,
        noise: Float[Tensor, "b q"],
        kl_weight: float,
        pose_only: bool = False,
        drawing: Drawing | None = None,
    ) -> Reconstruction:
        """Compute task 1: ``‖Y - Ŷ‖² / 2`` in units of the noise, plus ``kl_weight`` times the KL of q(z | Y); means per image.

        The misfit is within ``radius`` (integer frequency). Standard normal ``noise`` samples z from q(z | Y), or ``pose_only``
        sets z to 0. For ``drawing`` see :meth:`render`. With feedback, Ŷ has the refined pose, and the loss ``pose`` trains the
        encoder to predict it. Without feedback, Ŷ has the likeliest hypothesis, and ``pose`` trains the logits to select it.
        """
        features = self.encoder.features(data.y, data.ctf)
        mean, log_variance = self.encoder.latent(features)
        z = mean + noise * (0.5 * log_variance).exp()
        z = torch.zeros_like(z) if pose_only else z
        found = self.encoder.pose(features, z)
        if self.symmetrised:
            found = self._add_turned(data, z, found)
        band = data.within(radius)
        if self.feedback:
            poses = self._correct(data, found, z, self.tangent())[0].poses
            pose_loss = hypotheses_loss(found, poses)
        else:
            poses, pose_loss = self._choose(band, z, found, drawing)
        error = (band.y - self.render(z, poses, band.ctf, data.plane, drawing)).abs().square()
        misfit = 0.5 * (error * band.weight).sum(1).mean()
        kl = kl_divergence(mean, log_variance).mean()
        loss = misfit + kl_weight * (0.0 if pose_only else kl)
        return Reconstruction(loss, pose_loss, misfit, kl)

    def _choose(
        self, band: Observations, z: Float[Tensor, "b q"], found: Hypotheses, drawing: Drawing | None
    ) -> tuple[Poses, Float[Tensor, ""]]:
        """Return the likeliest hypothesis of each image, and the cross-entropy of the logits with this choice."""
        count = found.logits.shape[1]
        if count == 1:
            return found.best(), found.logits.sum() * 0.0
        with torch.no_grad():
            every = Poses(found.rotations.flatten(0, 1), found.shifts_px.flatten(0, 1))
            ctf = band.ctf.repeat_interleave(count, dim=0)
            images = self.render(z.repeat_interleave(count, dim=0), every, ctf, band.plane, drawing)
            images = images.unflatten(0, (-1, count))
            misfit = ((band.y[:, None] - images).abs().square() * band.weight).sum(-1)
            likeliest = misfit.argmin(1)
        return found.pick(likeliest), nn.functional.cross_entropy(found.logits, likeliest)

    def _add_turned(self, data: Observations, z: Float[Tensor, "b q"], found: Hypotheses) -> Hypotheses:
        """Add the pose hypotheses for the images rotated in plane by 180°, with these poses rotated back."""
        half_turn = torch.eye(3, device=z.device)
        half_turn[:2] *= -1
        other = self.encoder.pose(self.encoder.features(data.y.conj(), data.ctf), z)  # f(-x): the conjugate
        return Hypotheses(
            torch.cat([found.rotations, half_turn @ other.rotations], dim=1),
            torch.cat([found.shifts_px, -other.shifts_px], dim=1),
            torch.cat([found.logits, other.logits], dim=1),
        )

    # Task 2 ------------------------------------------------------------------------------------------------

    def predict_drawn_poses(
        self,
        batch: int,
        draws: LatentDraws,
        plane: HalfPlane,
        generator: torch.Generator,
        drawing: Drawing | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> PosePrediction:
        """Compute task 2: sample (z*, φ*), render a noisy image X with a real particle's CTF, and predict its pose given z*.

        ``conformation`` is -log q(z* | X): the encoder also predicts z* ("conformation sleep"). Rendering has no gradient, so
        the decoder does not learn from the images that it renders. :meth:`draw` explains the parameters.
        """
        drawn = self.draw(batch, draws, plane, generator, drawing, group)
        features = self.encoder.features(drawn.images, drawn.ctf)
        loss = hypotheses_loss(self.encoder.pose(features, drawn.z), drawn.poses)
        mean, log_variance = self.encoder.latent(features)
        conformation = 0.5 * ((drawn.z - mean).square() * (-log_variance).exp() + log_variance).sum(1).mean()
        return PosePrediction(loss, conformation)

    @torch.no_grad()
    def draw(
        self,
        batch: int,
        draws: LatentDraws,
        plane: HalfPlane,
        generator: torch.Generator,
        drawing: Drawing | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> DrawnImages:
        """Sample ``batch`` latents, poses and CTFs, and render their noisy images with the current decoder.

        25 % of the latents come from the prior and 75 % from ``draws.latents``; without these, all come from the prior. Every
        slice is used in four in-plane rotations (0°, 90°, 180°, 270°) at no cost; ``batch`` is rounded up to a multiple of 4.
        Each process of ``group`` samples the same numbers and renders a part of the slices. For ``drawing`` see :meth:`render`.
        """
        device, count = draws.ctf.device, -(-batch // 4)
        share, _ = group.share(count)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        def own_quarters(every: Tensor) -> Tensor:
            return every.unflatten(0, (4, count))[:, share].flatten(0, 1)

        z = normal(count, self.decoder.latent_dim)
        if draws.latents is not None:
            rows = torch.randint(len(draws.latents), (count - count // 4,), generator=generator, device=device)
            z[count // 4 :] = draws.latents[rows]
        z, rotations = z[share], random_rotations(count, generator, device)[share]
        drawn = (drawing or self.decoder.drawing())(z, rotations, plane.k[: draws.ctf.shape[1]])
        quarter, slices, views = inplane(torch.full((), -90.0, device=device)), [drawn], [rotations]
        for _ in range(3):
            slices.append(plane.quarter_turned(slices[-1]))
            views.append(quarter @ views[-1])
        poses = Poses(torch.cat(views), own_quarters(draws.shift_px * normal(4 * count, 2)))
        ctf = draws.ctf[own_quarters(torch.randint(len(draws.ctf), (4 * count,), generator=generator, device=device))]
        noise = own_quarters(normal(4 * count, ctf.shape[1], 2))
        noise[:, 0, 0] *= 2**0.5  # the mean of a real image is real
        noise[:, 0, 1] = 0
        noise = torch.view_as_complex(noise.mul_(2**-0.5))
        images = plane.translate(torch.cat(slices).mul_(ctf), poses.shifts_px).add_(noise)
        return DrawnImages(z.repeat(4, 1), poses, images, ctf)

    # Inference ---------------------------------------------------------------------------------------------

    def tangent(self) -> Tangent:
        """Return the table of the decoder's linear basis for the Gauss-Newton steps of decoder feedback."""
        with torch.no_grad():
            return Tangent(self.decoder.linear_basis(), highest=FEEDBACK_HIGHEST)

    @torch.no_grad()
    def encode(self, data: Observations) -> tuple[Float[Tensor, "b q"], Hypotheses]:
        """Run the encoder alone: return the means of q(z | Y), and pose hypotheses given these means."""
        features = self.encoder.features(data.y, data.ctf)
        mean, _ = self.encoder.latent(features)
        return mean, self.encoder.pose(features, mean)

    @torch.no_grad()
    def feedback_tables(self, plane: HalfPlane) -> FeedbackTables:
        """Return the tables of decoder feedback for inference, for images with the given plane."""
        rounds = self.second_look.rounds, self.feedback
        return FeedbackTables.of(self.decoder.linear_basis(), self.centres, rounds, plane)

    @torch.no_grad()
    def infer(self, data: Observations, tables: FeedbackTables | None) -> State:
        """Infer poses and latents of images in one forward pass, with decoder feedback if ``tables`` are given.

        With feedback, images whose misfit exceeds ``misfit_limit`` get a second look. They keep their first state (pose and z)
        unless the second state is likelier. If the share of the second look is 1, all images get the second look alone.
        """
        mean, found = self.encode(data)
        if tables is None:
            return State(found.best(), mean)
        if self.second_look.share == 1:
            return tables.second_look(data, found)[0]
        state, value = self._correct(data, found, mean, tables.tangent)
        rows = (self._misfit(value, data, tables.tangent) > self.misfit_limit).nonzero().squeeze(1)
        if not len(rows):
            return state
        again, other = tables.second_look(data[rows], found[rows])
        return state.replaced(rows, again.where(other > value[rows], state[rows]))

    @torch.no_grad()
    def calibrate(self, data: Observations, seed: int = 0) -> None:
        """Set ``centres`` and ``misfit_limit`` from a sample of images; images that are far stronger than others do not count.

        The centres are the means of a Gaussian mixture of latents, in all coordinates of z. The share of the
        second look, but at most half of the images, exceeds the limit.
        """
        if self.feedback and self.second_look.share:
            data = data[(~strong_images(low_power(data))).nonzero().squeeze(1)]
            tangent, (mean, found) = self.tangent(), self.encode(data)
            state, value = self._correct(data, found, mean, tangent)
            self.misfit_limit.copy_(self._misfit(value, data, tangent).quantile(1 - min(self.second_look.share, 0.5)))
            self.centres.copy_(cluster_means(state.latents, len(self.centres), seed))

    def _misfit(self, value: Float[Tensor, " b"], data: Observations, tangent: Tangent) -> Float[Tensor, " b"]:
        return misfit(value, tangent.band(data, self.feedback[-1][1]))

    @torch.no_grad()
    def _correct(
        self, data: Observations, found: Hypotheses, z: Float[Tensor, "b q"], tangent: Tangent
    ) -> tuple[State, Float[Tensor, " b"]]:
        states = [State(poses, z.detach()) for poses in found.likelier(self.feedback[0][0])]
        return compete(data, tangent, states, self.feedback)


def build_model(
    config: TrainConfig,
    box: int,
    basis: Float[Tensor, "j {box} {box} {box}"] | None = None,
    power: Float[Tensor, " m"] | None = None,
    scale: float = 1.0,
    focus: Focus = WHOLE,
) -> HetACUMN:
    """Build the model of a config.

    ``basis`` is the initial mean and components of a voxel decoder (zeros by default). ``power`` is the signal power of the
    particles. ``scale`` is the amplitude that a coordinate decoder expects of a coefficient. ``focus`` is the region in which
    the components of a voxel decoder differ from 0.
    """
    encoder = Encoder(HalfPlane(box), config.latent_dim, config.network, power)
    decoder: Decoder
    if config.network.decoder == "voxel":
        basis = torch.zeros(1 + config.latent_dim, box, box, box) if basis is None else basis
        decoder = VoxelDecoder(basis, config.network.padding, focus)
    else:
        decoder = CoordinateDecoder(box, config.latent_dim, scale=scale)
    effort = config.effort
    feedback = effort.feedback if config.feedback else ()
    look = SecondLook(effort.second_look, effort.second_rounds, max(1, min(config.classes, MOST_CENTRES)))
    return HetACUMN(encoder, decoder, config.network.symmetrised, feedback, look)
