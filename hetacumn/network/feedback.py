"""Decoder feedback: its rounds of Gauss-Newton steps, and the second look, a coarse grid search under the decoder's volumes.

The encoder predicts few pose hypotheses. All of them may be wrong for a low-signal image or a poorly fitting image. The second
look compares such an image with slices of the volumes at all rotations of a grid, at low resolution, by one matrix product. The
encoder's shift centres the image, so that nine shifts suffice. The likeliest grid poses then compete in Gauss-Newton steps:
first in steps of the pose alone, then in steps of the pose and z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.network.config import Rounds
from hetacumn.network.encoder import Hypotheses
from hetacumn.particles.observations import Observations
from hetacumn.physics.half_plane import HalfPlane
from hetacumn.search.clusters import fit_mixtures
from hetacumn.search.grid import PairedSlices, RotationGrid, likeliest, pose_grid, shift_grid
from hetacumn.search.refinement import PoseTangent, Tangent, compete_in_turn
from hetacumn.search.state import State
from hetacumn.search.subspace import volumes_at

FEEDBACK_HIGHEST = 20  # integer frequency; one forward pass needs no finer features, also at small pixels
LAST_RADIUS = 0.45  # cycles per pixel; radius of the last round for small boxes
GRID, EXTENT = (4, 24), 1 / 32  # rotations, 15° apart, and the largest shift as a fraction of the box
JOINT_ROUNDS = 2  # rounds of decoder feedback, its last ones, that follow the rounds of the second look
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
    - ``rounds``: rounds of Gauss-Newton steps of the pose alone; the last two rounds of decoder feedback follow them.
    - ``volumes``: number of latents whose volumes are compared with the images.
    """

    share: float = 0.0
    rounds: Rounds = ()
    volumes: int = 1


@dataclass(frozen=True)
class FeedbackTables:
    """The tables of decoder feedback for images of one box.

    - ``tangent``: the table for Gauss-Newton steps of the pose and z.
    - ``rounds``: the table, the number of competing poses and the Fourier radius (cycles per pixel) of each round of the second
      look. The grid poses are compared within the radius of the first round.
    - ``slices``: the slices of all volumes at the rotations of ``grid``, within this radius.
    - ``grid``, ``shifts_px``: the pose grid. ``centres``: the latents of the volumes.
    """

    tangent: Tangent
    rounds: list[tuple[Tangent, int, float]]
    slices: PairedSlices
    grid: RotationGrid
    shifts_px: Float[Tensor, "t 2"]
    centres: Float[Tensor, "k q"]

    @classmethod
    def of(
        cls,
        basis: Float[Tensor, "j box box box"],
        centres: Float[Tensor, "k q"],
        rounds: tuple[Rounds, Rounds],
        plane: HalfPlane,
    ) -> FeedbackTables:
        """Make the tables for a basis of volumes, the latents ``centres`` of the compared volumes, and the ``plane`` of images.

        ``rounds`` are the rounds of the second look, and the rounds of decoder feedback. The last two of the latter follow the
        former.
        """
        box, device, volumes = basis.shape[-1], basis.device, volumes_at(centres, basis)
        tangent = Tangent(basis, highest=FEEDBACK_HIGHEST)
        of_pose = PoseTangent(volumes, centres, highest=FEEDBACK_HIGHEST)
        alone, feedback = rounds
        in_turn = [(of_pose, *one) for one in alone] + [(tangent, *one) for one in feedback[-JOINT_ROUNDS:]]
        grid, shifts_px = pose_grid(*GRID).to(device), shift_grid(EXTENT * box, 3).to(device)
        k = plane.k[: plane.count(in_turn[0][2] * box)]
        slices = PairedSlices.of_grid(volumes, grid, k, reach=FEEDBACK_HIGHEST)
        return cls(tangent, in_turn, slices, grid, shifts_px, centres)

    def second_look(self, data: Observations, found: Hypotheses) -> tuple[State, Float[Tensor, " b"]]:
        """Choose the state of each image among grid poses around the shift that the encoder ``found``, with its log joint."""
        (_, count, radius), centre = self.rounds[0], found.best().shifts_px
        band = data.translated(-centre).within(radius * data.plane.box)
        poses, volume = likeliest(band, self.slices, self.grid, self.shifts_px, count)
        states = [
            State(replace(pose, shifts_px=pose.shifts_px + centre), self.centres[volume[:, i]]) for i, pose in enumerate(poses)
        ]
        return compete_in_turn(data, self.rounds, states)


def cluster_means(latents: Float[Tensor, "n q"], count: int, seed: int) -> Float[Tensor, "{count} q"]:
    """Compute the means of a Gaussian mixture of latents; with fewer latents than ``count``, all means are their mean."""
    if len(latents) < count:
        return latents.mean(0).expand(count, -1)
    mixture = fit_mixtures(latents.cpu().double().numpy(), count, 3, seed)[0]
    return torch.from_numpy(mixture.means_).to(latents)
