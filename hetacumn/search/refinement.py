"""Pose and conformation corrected together by what the decoder draws: Gauss-Newton steps.

With volumes ``V(z) = V_0 + Σ_j z_j V_j`` and noise of unit variance, an image says of pose and z

    l(R, t, z) = -½ ‖Y - X(R, t, z)‖² - ½ ‖z‖²,

X being the slice of V(z) at R, filtered by the CTF and shifted by t. X is linear in z; its derivative by a turn of the
view follows from the gradient of the transform, which is itself the transform of the first moments ``-2πi x V(x)``. So
one reading of a table of volumes and moments gives the slope and the curvature of ``l`` in all 5 + q numbers of an
image, and a 5 + q equation the step. The same numbers give the Laplace approximation of the evidence of that mode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetacumn.compute.batches import batch_size, batch_slices
from hetacumn.particles.observations import Observations
from hetacumn.physics.fourier import padded_rfft3c, padded_size
from hetacumn.physics.slices import coarsened, make_stencil
from hetacumn.search.state import Quadratic, State
from hetacumn.search.subspace import mixing_of

READ_AT_ONCE = 2**22  # numbers read of a table, on a CPU: larger arrays would be given fresh memory each time
READ_AT_ONCE_ELSEWHERE = 2**27  # of the memory of a device, a gigabyte


class Tangent:
    """Volumes ``(1 + q, box, box, box)``, mean and components, with all that a Gauss-Newton step reads of them.

    ``highest``: the highest integer frequency that will be read, or None for all. It bounds the size of the table.
    """

    def __init__(self, basis: Tensor, padding: float = 2.0, highest: int | None = None):
        whole, self.channels = basis.shape[-1], len(basis)
        self.highest = min(highest or whole, whole // 2 - 1)
        basis = coarsened(basis, self.highest)
        self.box = basis.shape[-1]
        self.size = padded_size(self.box, padding)
        axis = torch.arange(self.box, device=basis.device, dtype=basis.dtype) - self.box // 2
        moments = [basis * axis.view(shape) for shape in ((1, 1, -1), (1, -1, 1), (-1, 1, 1))]  # x, y, z
        transforms = padded_rfft3c(torch.stack([basis, *moments]) / self.box, self.size)
        transforms[1:].mul_(1j)
        by_voxel = torch.view_as_real(transforms.flatten(0, 1).flatten(1).T.contiguous())
        self.table = by_voxel.transpose(1, 2).flatten(1)  # (voxels, 2 parts * 4 moments * channels)

    def band(self, data: Observations, radius: float) -> Observations:
        """The images within ``radius`` (cycles per pixel), or within the highest frequency of the table."""
        return data.within(min(radius * data.plane.box, self.highest))

    def expand(self, data: Observations, state: State) -> Quadratic:
        """The log joint of images about a state, to second order."""
        most = READ_AT_ONCE if data.y.device.type == "cpu" else READ_AT_ONCE_ELSEWHERE
        block = max(1, most // (8 * self.channels * data.y.shape[1]))
        return Quadratic.cat([self._expand(data[rows], state[rows]) for rows in batch_slices(len(data), block)])

    def _expand(self, data: Observations, state: State) -> Quadratic:
        count, m, channels = len(data), data.y.shape[1], self.channels
        rotations, latents = state.poses.rotations, state.latents
        root = data.weight.sqrt()
        stencil = make_stencil(rotations, data.k, self.size, self.box, data.ctf * root)
        values = torch.nn.functional.embedding_bag(stencil.index, self.table, mode="sum", per_sample_weights=stencil.weights)
        # What is read, in the rows that the derivatives will have: i times the gradient of the image along the axes of the
        # view, the image twice, the components, and the image once more.
        mixing = mixing_of(latents)
        rows = mixing.new_zeros(count, 5 + channels, 4, channels)
        rows[:, :3, 1:] = rotations[..., None] * (mixing[:, None, None] * (torch.pi / 180))  # a turn is in degrees
        rows[:, 3:5, 0] = mixing[:, None]
        rows[:, -1, 0] = mixing
        rows[:, 5:-1, 0, 1:] = torch.eye(channels - 1, device=mixing.device)
        jacobian = torch.bmm(rows.flatten(2), values.view(count, 2 * m, 4 * channels).mT)  # (b, rows, 2m)
        # Where the half of the transform that is kept does not reach, its conjugate was read. A product with the image is
        # the same if that is conjugated too, and i changes its sign: with it do the frequencies below.
        sign = stencil.sign.view(count, m)
        residual = jacobian[:, -1].neg_().view(count, m, 2)
        image = data.plane.translate(data.y, -state.poses.shifts_px)
        residual[..., 0].addcmul_(image.real, root)
        residual[..., 1].addcmul_(image.imag, root * sign)
        # Derivatives are 2πi/box times: k cross the gradient in the view's frame, for turns; -k, for shifts. The box is that of
        # the grid that the moments are of, for turns; of the pixels that a shift is in, for shifts.
        k = (data.k.T * (2 * torch.pi / self.box))[:, None] * sign
        kx, ky = k.repeat_interleave(2, dim=2)
        about_z = (kx * jacobian[:, 1]).addcmul_(ky, jacobian[:, 0], value=-1)
        torch.mul(ky, jacobian[:, 2], out=jacobian[:, 0])
        torch.mul(kx, jacobian[:, 2], out=jacobian[:, 1]).neg_()
        jacobian[:, 2] = about_z
        over_i = torch.view_as_complex(jacobian[:, 3].view(count, m, 2)) * (-1j * self.box / data.plane.box)
        over_i = torch.view_as_real(over_i).flatten(1)
        torch.mul(kx, over_i, out=jacobian[:, 3])
        torch.mul(ky, over_i, out=jacobian[:, 4])
        products = torch.bmm(jacobian, jacobian.mT)  # the last row is the residual
        slope, curvature = products[:, :-1, -1], products[:, :-1, :-1]
        slope[:, 5:] -= latents
        curvature.diagonal(dim1=1, dim2=2)[:, 5:] += 1
        value = -0.5 * (products[:, -1, -1] + latents.square().sum(1))
        return Quadratic(value, slope, curvature)


@torch.no_grad()
def compete(
    data: Observations, tangent: Tangent, states: list[State], rounds: tuple[tuple[int, float], ...], damping: float = 0.03
) -> tuple[State, Tensor]:
    """The best of several states of each image, the likelier first, after a tournament of Gauss-Newton steps.

    Each round is ``(how many take part, radius in cycles per pixel)``: those of the highest evidence so far take one
    step, not checked, in that band. The last round leaves the winner, and the log joint ``(b,)`` expected of it.
    """
    count, evidence = len(data), None
    state = State.cat(states[: rounds[0][0]])  # of h states of each image: h times all images
    for most, radius in rounds:
        entrants = len(state.latents) // count
        if most < entrants:
            best = evidence.argsort(dim=1, descending=True)[:, :most]
            state = state[(best * count + torch.arange(count, device=best.device)[:, None]).T.flatten()]
            entrants = most
        band = tangent.band(data, radius).repeated(entrants)
        step, value, evidence = tangent.expand(band, state).step(damping)
        state = state.moved(step)
        value, evidence = value.view(entrants, count).T, evidence.view(entrants, count).T
    winner = evidence.argmax(dim=1)
    rows = torch.arange(count, device=winner.device)
    return state[winner * count + rows], value[rows, winner]


def misfit(log_joint: Tensor, band: Observations) -> Tensor:
    """By how many standard deviations ``‖Y - X‖²`` is more than noise of unit variance alone would leave, ``(b,)``.

    Nearly N(0, 1) where pose and z are right, whatever the image and the band: wrong poses stand out.
    """
    count = band.weight.sum()
    return (-2 * log_joint - count) / (2 * count).sqrt()


@torch.no_grad()
def climb(
    data: Observations, tangent: Tangent, state: State, radii: tuple[float, ...], batch: int | None = None
) -> tuple[State, Tensor]:
    """Steps at ``radii`` (cycles per pixel, a run of equal ones is one climb), kept only where they help.

    The damping of an image grows when a step fails and falls when it helps (Levenberg-Marquardt). Returns the state
    and its log joint ``(n,)`` in the last band.
    """
    parts, values, batch = [], [], batch or batch_size(500, data.y.shape[1], data.y.device)
    for rows in batch_slices(len(data), batch):
        part, best, before = data[rows], state[rows], None
        for radius in radii:
            if radius != before:
                band = tangent.band(part, radius)
                here = tangent.expand(band, best)
                damping = torch.full((len(part), 1), 0.03, device=here.value.device)
                before = radius
            step, _, _ = here.step(damping)
            trial = best.moved(step)
            there = tangent.expand(band, trial)
            better = there.value > here.value
            best, here = trial.where(better, best), there.where(better, here)
            damping = torch.where(better[:, None], damping / 3, damping * 10)
        parts.append(best)
        values.append(here.value)
    return State.cat(parts), torch.cat(values)
