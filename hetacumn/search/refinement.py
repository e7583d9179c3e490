"""Joint refinement of pose and conformation by Gauss-Newton steps.

For volumes ``V(z) = V_0 + Σ_j z_j V_j`` and noise of unit variance, the log joint of an image, its pose and z is

    l(R, t, z) = -½ ‖Y - X(R, t, z)‖² - ½ ‖z‖²,

where X is the slice of V(z) at R, filtered by the CTF and shifted by t. X is linear in z. The derivative of X with respect to a
rotation of the view follows from the gradient of the transform of V, and this gradient is the transform of the first moments
``-2πi x V(x)``. A table of the transforms of volumes and moments, interpolated once at the slice, therefore gives the slope and
the Gauss-Newton curvature of ``l`` in the 5 + q parameters of an image: 3 of rotation, 2 of shift and q of z. Solving 5 + q
linear equations gives the step. Slope and curvature also give the Laplace approximation of the evidence.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hetacumn.compute.batches import batch_size, batch_slices
from hetacumn.particles.observations import Observations
from hetacumn.physics.fourier import padded_rfft3c, padded_size
from hetacumn.physics.slices import coarsened, make_stencil
from hetacumn.search.grid import PoseGrid, search_grid
from hetacumn.search.state import Quadratic, State
from hetacumn.search.subspace import mixing_of

READ_AT_ONCE = 2**22  # numbers read from a table at once on a CPU: larger arrays would be allocated anew each time
READ_AT_ONCE_ELSEWHERE = 2**27  # numbers read at once on another device, about a gigabyte of its memory


class Tangent:
    """A table for Gauss-Newton steps: the transforms of mean and components, and of their first moments.

    ``basis`` is the mean volume and the components, zero-padded by the factor ``padding``. ``highest`` is the highest integer
    frequency that will be read, or None for all frequencies; it bounds the size of the table.
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
        """Restrict images to frequencies within ``radius`` (cycles per pixel) and within the table's highest frequency."""
        return data.within(min(radius * data.plane.box, self.highest))

    def expand(self, data: Observations, state: State) -> Quadratic:
        """Expand the log joint of each image to second order about its state."""
        most = READ_AT_ONCE if data.y.device.type == "cpu" else READ_AT_ONCE_ELSEWHERE
        block = max(1, most // (8 * self.channels * data.y.shape[1]))
        return Quadratic.cat([self._expand(data[rows], state[rows]) for rows in batch_slices(len(data), block)])

    def _expand(self, data: Observations, state: State, first_row: Int[Tensor, " b"] | None = None) -> Quadratic:
        """Expand the log joint of a block of images; ``first_row`` is the first row of an image's own part of the table."""
        count, m, channels = len(data), data.y.shape[1], self.channels
        rotations, latents = state.poses.rotations, state.latents
        root = data.weight.sqrt()
        stencil = make_stencil(data.axes(rotations), data.k, self.size, self.box, data.ctf * root)
        index = stencil.index if first_row is None else stencil.index + first_row.repeat_interleave(m)[:, None]
        values = torch.nn.functional.embedding_bag(index, self.table, mode="sum", per_sample_weights=stencil.weights)
        # The rows mix the values read into: i times the first moments along the view's axes x, y and z; the image twice; the
        # components; and the image once more. The code below overwrites these rows with the derivatives and the residual.
        mixing = mixing_of(latents)
        rows = mixing.new_zeros(count, 5 + channels, 4, channels)
        rows[:, :3, 1:] = rotations[..., None] * (mixing[:, None, None] * (torch.pi / 180))  # rotations in degrees
        rows[:, 3:5, 0] = mixing[:, None]
        rows[:, -1, 0] = mixing
        rows[:, 5:-1, 0, 1:] = torch.eye(channels - 1, device=mixing.device)
        jacobian = torch.bmm(rows.flatten(2), values.view(count, 2 * m, 4 * channels).mT)  # (b, rows, 2m)
        # The table holds half of the transform. For points in the other half the stencil read the conjugate. Real inner
        # products stay equal if the image is conjugated there too; i then changes its sign, and so do the frequencies below.
        sign = stencil.sign.view(count, m)
        residual = jacobian[:, -1].neg_().view(count, m, 2)
        image = data.plane.translate(data.y, -state.poses.shifts_px)
        residual[..., 0].addcmul_(image.real, root)
        residual[..., 1].addcmul_(image.imag, root * sign)
        # The derivative with respect to a rotation is 2πi/box k × M, where M is the transform of the first moments along the
        # view's axes and box is the box of the table. The derivative with respect to a shift is -2πi k/box times the image,
        # where box is the box of the images, because shifts are in pixels of the images.
        k = (data.k.T * (2 * torch.pi / self.box))[:, None] * sign
        kx, ky = k.repeat_interleave(2, dim=2)
        ux, uy = (
            (kx, ky) if data.magnification is None else torch.einsum("bij,jbm->ibm", data.magnification, torch.stack([kx, ky]))
        )
        about_z = (ux * jacobian[:, 1]).addcmul_(uy, jacobian[:, 0], value=-1)
        torch.mul(uy, jacobian[:, 2], out=jacobian[:, 0])
        torch.mul(ux, jacobian[:, 2], out=jacobian[:, 1]).neg_()
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


class PoseTangent(Tangent):
    """A table for Gauss-Newton steps of the pose alone, at few latents: the separate volumes V(z) at the latents ``centres``.

    The latents of all states are centres. Steps do not change them.
    """

    def __init__(
        self, volumes: Float[Tensor, "k box box box"], centres: Float[Tensor, "k q"], highest: int | None = None
    ) -> None:
        super().__init__(volumes, highest=highest)
        self.rows, self.centres, self.channels = len(self.table), centres, 1
        self.table = self.table.view(self.rows, 8, len(volumes)).movedim(2, 0).flatten(0, 1)  # one volume after the other

    def _expand(self, data: Observations, state: State, first_row: Int[Tensor, " b"] | None = None) -> Quadratic:
        volume = torch.cdist(state.latents, self.centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        of_pose = super()._expand(data, State(state.poses, state.latents[:, :0]), volume * self.rows)
        parameters = 5 + state.latents.shape[1]
        slope = of_pose.slope.new_zeros(len(data), parameters)
        slope[:, :5] = of_pose.slope
        curvature = torch.eye(parameters, device=slope.device).repeat(len(data), 1, 1)
        curvature[:, :5, :5] = of_pose.curvature
        return Quadratic(of_pose.value - 0.5 * state.latents.square().sum(1), slope, curvature)


@torch.no_grad()
def compete(
    data: Observations, tangent: Tangent, states: list[State], rounds: tuple[tuple[int, float], ...], damping: float = 0.03
) -> tuple[State, Float[Tensor, " n"]]:
    """Choose one of several states of each image by rounds of Gauss-Newton steps.

    Each entry of ``states`` contains one candidate state for every image; the likeliest candidates are in the first entry. Each
    round is ``(number of candidates per image, radius in cycles per pixel)``. The first round starts with the first entries of
    ``states``; a later round keeps the candidates with the highest Laplace evidence in the round before. Every candidate takes
    one step, computed from the frequencies within the radius, even if the step lowers the log joint. After the last round, the
    function selects the candidate with the highest evidence.

    Returns the selected states, and the log joints that the quadratic expansion of the last round predicts for them.
    """
    return compete_in_turn(data, [(tangent, *one) for one in rounds], states, damping)


@torch.no_grad()
def compete_in_turn(
    data: Observations, rounds: list[tuple[Tangent, int, float]], states: list[State], damping: float = 0.03
) -> tuple[State, Float[Tensor, " n"]]:
    """Run :func:`compete` with a table for each round: ``(table, number of candidates, radius)``."""
    count = len(data)
    value = evidence = data.ctf.new_empty(count, 0)  # empty before the first round
    state = State.cat(states[: rounds[0][1]])  # h states per image: the first state of all images, then the second, …
    for tangent, most, radius in rounds:
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

    ``log_joint`` was computed in ``band``. For the true pose and z the misfit is nearly N(0, 1), for every image and band. A
    large misfit therefore indicates a wrong pose.
    """
    count = band.weight.sum()
    return (-2 * log_joint - count) / (2 * count).sqrt()


@torch.no_grad()
def climb(
    data: Observations, tangent: Tangent, state: State, radii: tuple[float, ...], batch: int | None = None
) -> tuple[State, Float[Tensor, " n"]]:
    """Take one Gauss-Newton step at each of ``radii`` (cycles per pixel), and keep it where it raises the log joint.

    The damping of an image grows after a rejected step and falls after an accepted one (Levenberg-Marquardt). It is
    reset where the radius changes. ``batch`` is the number of images per step.

    Returns the states and their log joints within the last radius.
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


def search_volume(
    data: Observations,
    volume: Float[Tensor, "box box box"],
    grid: PoseGrid,
    grid_radius: float,
    radii: tuple[float, ...],
    padding: float = 2.0,
) -> tuple[State, Float[Tensor, " n"]]:
    """Find the pose of each image under one volume: the likeliest pose of a grid, then Gauss-Newton steps.

    ``grid`` are rotations and shifts in pixels, which are compared within ``grid_radius`` (cycles per
    pixel). ``radii`` are the radii of the steps. Returns the states, whose z has no dimension, and their log joints.
    """
    band = data.within(grid_radius * data.plane.box)
    found = search_grid(band, volume[None], *grid, padding=padding)
    state = State(found.poses, found.log_evidence.new_zeros(len(data), 0))
    return climb(data, Tangent(volume[None], padding), state, radii)
