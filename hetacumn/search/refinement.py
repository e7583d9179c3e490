"""Joint refinement of pose and conformation by Gauss-Newton steps.

With volumes ``V(z) = V_0 + Σ_j z_j V_j`` and noise of unit variance, the log joint of an image, its pose and z is

    l(R, t, z) = -½ ‖Y - X(R, t, z)‖² - ½ ‖z‖²,

where X is the slice of V(z) at R, filtered by the CTF and shifted by t. X is linear in z; its derivative by a turn of the
view follows from the gradient of the transform, which is itself the transform of the first moments ``-2πi x V(x)``. So
one reading of a table of volumes and moments gives the slope and the curvature of ``l`` in all 5 + q numbers of an
image, and a system of 5 + q equations gives the step. The same numbers give the Laplace approximation of the evidence.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hetacumn.compute.batches import batch_size, batch_slices
from hetacumn.particles.observations import Observations
from hetacumn.physics.fourier import padded_rfft3c, padded_size
from hetacumn.physics.slices import coarsened, make_stencil
from hetacumn.search.state import Quadratic, State
from hetacumn.search.subspace import mixing_of

READ_AT_ONCE = 2**22  # numbers read from a table on a CPU: larger arrays would get fresh memory each time
READ_AT_ONCE_ELSEWHERE = 2**27  # numbers, about a gigabyte of the memory of a device


class Tangent:
    """A table of the transforms of mean and components and of their first moments, which Gauss-Newton steps read.

    ``basis`` is the mean volume and the components. ``highest`` is the highest integer frequency that will be read, or None
    for all; it bounds the size of the table.
    """

    def __init__(self, basis: Float[Tensor, "channels box box box"], padding: float = 2.0, highest: int | None = None) -> None:
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
        """Keep the frequencies within ``radius`` (cycles per pixel) and within the highest frequency of the table."""
        return data.within(min(radius * data.plane.box, self.highest))

    def expand(self, data: Observations, state: State) -> Quadratic:
        """Expand the log joint of images about a state, to second order."""
        most = READ_AT_ONCE if data.y.device.type == "cpu" else READ_AT_ONCE_ELSEWHERE
        block = max(1, most // (8 * self.channels * data.y.shape[1]))
        return Quadratic.cat([self._expand(data[rows], state[rows]) for rows in batch_slices(len(data), block)])

    def _expand(self, data: Observations, state: State) -> Quadratic:
        count, m, channels = len(data), data.y.shape[1], self.channels
        rotations, latents = state.poses.rotations, state.latents
        root = data.weight.sqrt()
        stencil = make_stencil(rotations, data.k, self.size, self.box, data.ctf * root)
        values = torch.nn.functional.embedding_bag(stencil.index, self.table, mode="sum", per_sample_weights=stencil.weights)
        # The rows mix the values read: i times the gradient of the image along the axes of the view, the image twice, the
        # components, and the image once more. The derivatives will take the same rows.
        mixing = mixing_of(latents)
        rows = mixing.new_zeros(count, 5 + channels, 4, channels)
        rows[:, :3, 1:] = rotations[..., None] * (mixing[:, None, None] * (torch.pi / 180))  # a turn is in degrees
        rows[:, 3:5, 0] = mixing[:, None]
        rows[:, -1, 0] = mixing
        rows[:, 5:-1, 0, 1:] = torch.eye(channels - 1, device=mixing.device)
        jacobian = torch.bmm(rows.flatten(2), values.view(count, 2 * m, 4 * channels).mT)  # (b, rows, 2m)
        # Only half of the transform is kept, and elsewhere the conjugate was read. A product with the image is the same if
        # the image is conjugated too. Then i changes its sign, and so do the frequencies below.
        sign = stencil.sign.view(count, m)
        residual = jacobian[:, -1].neg_().view(count, m, 2)
        image = data.plane.translate(data.y, -state.poses.shifts_px)
        residual[..., 0].addcmul_(image.real, root)
        residual[..., 1].addcmul_(image.imag, root * sign)
        # The derivative by a turn is 2πi/box times k cross the gradient in the view's frame, with the box of the table's grid.
        # The derivative by a shift is -2πi k/box, with the box of the images, in whose pixels shifts are measured.
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
) -> tuple[State, Float[Tensor, " n"]]:
    """Choose among several states of each image by a tournament of Gauss-Newton steps.

    ``states`` hold the likelier states first. Each round is ``(how many take part, radius in cycles per pixel)``: the states of
    the highest evidence so far take one step in this band, which is not checked. The last round leaves the winner; the function
    returns the winner and its expected log joint.
    """
    count = len(data)
    value = evidence = data.ctf.new_empty(count, 0)  # before the first round, which all states enter
    state = State.cat(states[: rounds[0][0]])  # h states of each image: all images h times
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


def misfit(log_joint: Float[Tensor, " n"], band: Observations) -> Float[Tensor, " n"]:
    """Compute by how many standard deviations ``‖Y - X‖²`` exceeds its expectation under noise of unit variance.

    The misfit is nearly N(0, 1) where pose and z are right, whatever the image and the band, so that wrong poses stand out.
    """
    count = band.weight.sum()
    return (-2 * log_joint - count) / (2 * count).sqrt()


@torch.no_grad()
def climb(
    data: Observations, tangent: Tangent, state: State, radii: tuple[float, ...], batch: int | None = None
) -> tuple[State, Float[Tensor, " n"]]:
    """Take one step at each of ``radii`` (cycles per pixel), and keep the step where it helps; equal radii are one climb.

    The damping of an image grows when a step fails and falls when it helps (Levenberg-Marquardt). The function returns the
    state and its log joint in the last band.
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
