"""Decoder feedback: its rounds of Gauss-Newton steps, and the second look, a coarse grid search under the decoder's volumes.

The encoder predicts few pose hypotheses. All of them may be wrong for a low-signal image or a poorly fitting image. The second
look compares such an image with slices of the volumes at all rotations of a grid, at low resolution, by one matrix product. The
encoder's shift centres the image, so that four shifts suffice. The likeliest grid poses then compete with hypotheses of the
encoder in Gauss-Newton steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from hetacumn.network.config import Rounds
from hetacumn.network.encoder import Hypotheses
from hetacumn.particles.observations import Observations
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.physics.slices import Slicer
from hetacumn.search.clusters import fit_mixtures
from hetacumn.search.grid import likeliest_slices, pose_grid, shift_grid
from hetacumn.search.refinement import Tangent, compete
from hetacumn.search.state import State
from hetacumn.search.subspace import volumes_at

FEEDBACK_HIGHEST = 20  # integer frequency; one forward pass needs no finer features, also at small pixels
LAST_RADIUS = 0.45  # cycles per pixel; radius of the last round for small boxes
GRID, EXTENT = (4, 24), 1 / 64  # rotations, 15° apart, and the largest shift as a fraction of the box
ENCODED = 4  # hypotheses of the encoder that compete
MOST_CENTRES = 8  # largest number of volumes; with more classes, a volume is an average over classes


def adapted(rounds: Rounds, box: int) -> Rounds:
    """Adapt rounds to the box: in large boxes, shrink radii by a factor that maps 0.45 to :data:`FEEDBACK_HIGHEST` / box.

    A larger box does not improve the encoder's poses, and finer features cannot correct the errors of these poses.
    """
    shrunk = min(1.0, FEEDBACK_HIGHEST / (LAST_RADIUS * box))
    return tuple((most, shrunk * radius) for most, radius in rounds)


@dataclass(frozen=True)
class SecondLook:
    """Settings of the second look.

    - ``share``: fraction of the images, the worst fitting ones, that get a second look; 0 for none.
    - ``rounds``: rounds of Gauss-Newton steps; the last round of decoder feedback follows them.
    - ``volumes``: number of latents whose volumes are compared with the images.
    """

    share: float = 0.0
    rounds: Rounds = ()
    volumes: int = 1


@dataclass(frozen=True)
class FeedbackTables:
    """The tables of decoder feedback for images of one box.

    - ``tangent``: the table for Gauss-Newton steps.
    - ``rounds``: the rounds of the second look (:func:`~hetacumn.search.refinement.compete`). The first round gives the number
      of competing poses, and the Fourier radius (cycles per pixel) within which the grid poses are compared.
    - ``slices``: the slices of all volumes at all ``rotations``, within this radius.
    - ``rotations``, ``shifts_px``: the pose grid. ``centres``: the latents of the volumes.
    """

    tangent: Tangent
    rounds: Rounds
    slices: Complex[Tensor, "s m"]
    rotations: Float[Tensor, "r 3 3"]
    shifts_px: Float[Tensor, "t 2"]
    centres: Float[Tensor, "k q"]

    @classmethod
    def of(
        cls, basis: Float[Tensor, "j box box box"], centres: Float[Tensor, "k q"], rounds: Rounds, plane: HalfPlane
    ) -> FeedbackTables:
        """Make the tables for a basis of volumes, the latents ``centres``, the rounds, and the ``plane`` of the images."""
        box, device = basis.shape[-1], basis.device
        rotations, shifts_px = pose_grid(*GRID).to(device), shift_grid(EXTENT * box, 2).to(device)
        slicer = Slicer(volumes_at(centres, basis), reach=FEEDBACK_HIGHEST)
        slices = slicer(rotations, plane.k[: plane.count(rounds[0][1] * box)]).transpose(0, 1).flatten(0, 1)
        return cls(Tangent(basis, highest=FEEDBACK_HIGHEST), rounds, slices, rotations, shifts_px, centres)

    def second_look(self, data: Observations, found: Hypotheses, z: Float[Tensor, "b q"]) -> tuple[State, Float[Tensor, " b"]]:
        """Choose the state of each image among hypotheses of the encoder and grid poses; return it with its log joint.

        ``found`` and ``z`` are the predictions of the encoder.
        """
        (count, radius), centre, hypotheses = self.rounds[0], found.best().shifts_px, found.likelier(ENCODED)
        band = data.translated(-centre).within(radius * data.plane.box)
        poses, volume = likeliest_slices(band, self.slices, self.rotations, self.shifts_px, max(1, count - len(hypotheses)))
        states = [State(pose, z) for pose in hypotheses]
        for i, pose in enumerate(poses):
            states.append(State(replace(pose, shifts_px=pose.shifts_px + centre), self.centres[volume[:, i]]))
        return compete(data, self.tangent, states, self.rounds)


def cluster_means(latents: Float[Tensor, "n q"], count: int, seed: int) -> Float[Tensor, "{count} q"]:
    """Compute the means of a Gaussian mixture of latents; with fewer latents than ``count``, all means are their mean."""
    if len(latents) < count:
        return latents.mean(0).expand(count, -1)
    mixture = fit_mixtures(latents.cpu().double().numpy(), count, 3, seed)[0]
    return torch.from_numpy(mixture.means_).to(latents)
