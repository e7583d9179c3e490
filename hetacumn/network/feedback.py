"""Decoder feedback: its rounds, and the second look, in which slices of the decoder's volumes are matched filters for images.

The encoder predicts few pose hypotheses. All of them may be wrong for a low-signal image, or for an image that they fit badly.
The likelihood of an image at all rotations of a grid is one product of matrices, which at low resolution is about as cheap as a
layer of the encoder. The encoder's shift centres the image, so that the grid needs few shifts. The likeliest grid poses then
compete with hypotheses of the encoder in Gauss-Newton steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.network.config import Rounds
from hetacumn.network.encoder import Hypotheses
from hetacumn.particles.observations import Observations
from hetacumn.search.clusters import fit_mixtures
from hetacumn.search.competing_poses import Candidates
from hetacumn.search.grid import likeliest, pose_grid, shift_grid
from hetacumn.search.refinement import Tangent, compete
from hetacumn.search.state import State
from hetacumn.search.subspace import volumes_at

FEEDBACK_HIGHEST = 20  # integer frequency; one forward pass needs no finer features, also at small pixels
LAST_RADIUS = 0.45  # cycles per pixel; radius of the last round for small boxes
GRID, EXTENT = (4, 24), 1 / 64  # rotations, 15° apart, and the largest shift as a fraction of the box
ENCODED = 4  # hypotheses of the encoder that compete
MOST_CENTRES = 8  # largest number of volumes


def adapted(rounds: Rounds, box: int) -> Rounds:
    """Adapt rounds to the box: in large boxes, shrink radii by a factor that maps 0.45 to :data:`FEEDBACK_HIGHEST` / box.

    A larger box does not improve the encoder's poses, and finer features cannot correct the errors of these poses.
    """
    shrunk = min(1.0, FEEDBACK_HIGHEST / (LAST_RADIUS * box))
    return tuple((most, shrunk * radius) for most, radius in rounds)


@dataclass(frozen=True)
class Look:
    """The tables of decoder feedback: for Gauss-Newton steps, and the poses and volumes of the second look."""

    tangent: Tangent
    candidates: Candidates

    @classmethod
    def of(cls, basis: Float[Tensor, "j box box box"], centres: Float[Tensor, "k q"]) -> Look:
        """Make the tables for a basis of volumes, and for the volumes at the latents ``centres``."""
        rotations, shifts_px = pose_grid(*GRID).to(basis.device), shift_grid(EXTENT * basis.shape[-1], 2).to(basis.device)
        candidates = Candidates(volumes_at(centres, basis), centres, rotations, shifts_px)
        return cls(Tangent(basis, highest=FEEDBACK_HIGHEST), candidates)

    def again(
        self, data: Observations, found: Hypotheses, z: Float[Tensor, "b q"], rounds: Rounds
    ) -> tuple[State, Float[Tensor, " b"]]:
        """Choose the state of each image among hypotheses of the encoder and grid poses; return it with its log joint.

        ``found`` and ``z`` are the predictions of the encoder. The first of ``rounds`` (:func:`compete`) gives the number of
        competing poses and the Fourier radius (cycles per pixel) within which the grid poses are compared.
        """
        (most, radius), centre, given = rounds[0], found.best().shifts_px, found.likelier(ENCODED)
        grid, band = self.candidates, data.translated(-centre).within(radius * data.plane.box)
        poses, which = likeliest(band, grid.volumes, grid.rotations, grid.shifts_px, max(1, most - len(given)))
        states = [State(one, z) for one in given]
        for i, one in enumerate(poses):
            states.append(State(replace(one, shifts_px=one.shifts_px + centre), grid.centres[which[:, i]]))
        return compete(data, self.tangent, states, rounds)


def cluster_means(latents: Float[Tensor, "n q"], count: int, seed: int) -> Float[Tensor, "{count} q"]:
    """Compute the means of a Gaussian mixture of latents; with fewer latents than ``count``, all means are their mean."""
    if len(latents) < count:
        return latents.mean(0).expand(count, -1)
    mixture = fit_mixtures(latents.cpu().double().numpy(), count, 3, seed)[0]
    return torch.from_numpy(mixture.means_).to(latents)
