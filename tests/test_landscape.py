"""Independent motions of a latent space, and paths through it."""

import numpy as np
import pytest
import torch

from hetacumn.prediction.landscape import density_path, energy_landscape, latent_axes, latent_path


def volumes(*sizes: float) -> torch.Tensor:
    """Return a basis of which component ``i`` changes one voxel by ``sizes[i]``."""
    basis = torch.zeros(1 + len(sizes), 4, 4, 4)
    for i, size in enumerate(sizes):
        basis[1 + i].view(-1)[i] = size
    return basis


@pytest.fixture
def motions() -> torch.Tensor:
    return torch.rand(3000, 2, generator=torch.Generator().manual_seed(0))


def test_independent_motions_are_separated_where_principal_axes_mix_them(motions):
    mixing = torch.tensor([[2.0, 1.9, 0.0, 0.3], [2.0, -1.8, 0.4, 0.0]])
    noise = 0.05 * torch.randn(3000, 4, generator=torch.Generator().manual_seed(1))
    latents = motions @ mixing + noise + torch.tensor([5.0, 0.0, -1.0, 2.0])
    found = latent_axes(latents, 2, volumes(1, 1, 0.1, 0.1))
    table = torch.corrcoef(torch.cat([found.coordinates, motions], 1).T)[:2, 2:].abs()
    assert (table.max(1).values > 0.98).all() and table.argmax(1).unique().numel() == 2
    principal = torch.linalg.svd(latents - latents.mean(0), full_matrices=False).Vh[:1]
    mixed = torch.corrcoef(torch.cat([(latents - latents.mean(0)) @ principal.T, motions], 1).T)[0, 1:].abs()
    assert mixed.min() > 0.3  # one axis correlates with both motions


def test_a_path_follows_one_motion_and_keeps_the_other_constant(motions):
    latents = torch.cat([motions * torch.tensor([4.0, 1.0]), torch.zeros(3000, 1)], 1)
    found = latent_axes(latents, 2, volumes(1, 1, 1))
    path = found.path(0, 5)
    low, high = torch.quantile(latents[:, 0], torch.tensor([0.05, 0.95]))
    torch.testing.assert_close(path[[0, -1], 0], torch.stack([low, high]), atol=0.1, rtol=0)
    assert (path[:, 1] - latents[:, 1].mean()).abs().max() < 0.1 and path[:, 2].abs().max() < 1e-3
    again = latent_axes(latents, 2, volumes(1, 1, 1))
    assert torch.equal(again.coordinates, found.coordinates)


@pytest.mark.parametrize("latents, count", [
    (torch.rand(50, 1, generator=torch.Generator().manual_seed(0)), 2),
    (torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.0, 0.0]), 2),
    (torch.zeros(10, 2), 2),
])  # fmt: skip
def test_latents_of_fewer_dimensions_have_fewer_axes(latents, count):
    found = latent_axes(latents, count, volumes(*[1.0] * latents.shape[1]))
    assert found.coordinates.shape == (len(latents), 1) and found.directions.shape == (1, latents.shape[1])
    assert found.path(0, 3).isfinite().all()


def test_the_motion_that_changes_the_volume_most_is_the_first(motions):
    latents = (motions - 0.5) * torch.tensor([1.0, 3.0])
    first = latent_axes(latents, 1, volumes(10, 1)).coordinates[:, 0]
    assert torch.corrcoef(torch.stack([first, motions[:, 0]]))[0, 1].abs() > 0.98


def test_the_motions_come_before_the_bend_of_one_of_them(motions):
    bend = 2 * (motions[:, :1] - 0.5).square()
    latents = torch.cat([motions, bend], 1)
    found = latent_axes(latents, 2, volumes(3, 3, 1))
    table = torch.corrcoef(torch.cat([found.coordinates, motions], 1).T)[:2, 2:].abs()
    assert (table.max(1).values > 0.97).all() and table.argmax(1).unique().numel() == 2


def test_a_path_ends_at_the_percentiles_of_the_longest_axis(device):
    along = torch.linspace(-10, 10, 1001, device=device)
    across = torch.randn(1001, 2, generator=torch.Generator().manual_seed(0)).to(device)
    axis = torch.tensor([0.6, 0.8, 0.0], device=device)
    latents = along[:, None] * axis + 0.01 * torch.nn.functional.pad(across, (1, 0)) + torch.tensor([1.0, 2, 3], device=device)
    path = latent_path(latents, 7)
    assert path.shape == (7, 3)
    place = (path - torch.tensor([1.0, 2, 3], device=device)) @ axis
    if place[0] > place[-1]:
        place = -place
    torch.testing.assert_close(place, torch.linspace(-9, 9, 7, device=device), rtol=0, atol=0.05)
    middle = path - latents.mean(0)
    assert (middle - (middle @ axis)[:, None] * axis).norm(dim=1).max() < 0.05


def arc(count: int, noise: float) -> torch.Tensor:
    """Return latents ``(count, 2)`` on the upper half of the unit circle, with noise."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.pi * torch.rand(count, generator=generator)
    return torch.stack([-angle.cos(), angle.sin()], 1) + noise * torch.randn(count, 2, generator=generator)


ENDS = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])


def test_a_path_follows_the_density_where_the_straight_line_crosses_empty_space():
    path = density_path(arc(3000, 0.03), ENDS, 9, volumes(1, 1)[1:])
    assert (path.norm(dim=1) - 1).abs().max() < 0.06
    torch.testing.assert_close(path[:, 0], -torch.linspace(0, torch.pi, 9).cos(), rtol=0, atol=0.25)
    torch.testing.assert_close(path[[0, -1]], ENDS, rtol=0, atol=0.08)


def test_a_path_starts_and_ends_at_particles_and_does_not_depend_on_their_order():
    latents = arc(500, 0.05)
    path = density_path(latents, ENDS, 5, volumes(1, 1)[1:])
    for end, reached in zip(ENDS, path[[0, -1]], strict=True):
        torch.testing.assert_close(reached, latents[(latents - end).norm(dim=1).argmin()])
    torch.testing.assert_close(density_path(latents.flip(0), ENDS, 5, volumes(1, 1)[1:]), path)
    torch.testing.assert_close(density_path(latents, ENDS.flip(0), 5, volumes(1, 1)[1:]), path.flip(0), rtol=0, atol=1e-4)


def test_a_latent_that_does_not_change_the_volume_does_not_change_the_path():
    latents = arc(500, 0.05)
    idle = 100 * torch.randn(500, 1, generator=torch.Generator().manual_seed(1))
    path = density_path(torch.cat([latents, idle], 1), torch.nn.functional.pad(ENDS, (0, 1)), 7, volumes(1, 1, 0)[1:])
    torch.testing.assert_close(path[:, :2], density_path(latents, ENDS, 7, volumes(1, 1)[1:]))


def test_a_path_between_separate_states_visits_the_state_between_them():
    centres = torch.tensor([[0.0, 0.0], [4.0, 3.0], [8.0, 0.0]])
    generator = torch.Generator().manual_seed(0)
    latents = torch.cat([centre + 0.2 * torch.randn(200, 2, generator=generator) for centre in centres])
    path = density_path(latents, centres[[0, 2]], 30, volumes(1, 1)[1:])
    near = (torch.cdist(path, centres) < 0.8).sum(0)
    assert (near >= 3).all() and near.sum() >= 0.6 * len(path)  # most points are near particles


@pytest.mark.parametrize("latents", (torch.zeros(40, 2), torch.rand(2, 2), torch.rand(1, 2)), ids=("equal", "two", "one"))
def test_few_or_equal_particles_have_a_path(latents):
    path = density_path(latents, latents[[0, -1]], 4, volumes(1, 1)[1:])
    assert path.shape == (4, 2) and path.isfinite().all()
    torch.testing.assert_close(path[[0, -1]], latents[[0, -1]])


def test_the_energy_of_a_normal_distribution_is_a_parabola_within_its_error():
    found = energy_landscape(np.random.default_rng(0).normal(size=(20_000, 2)) * [1.0, 3.0])
    (width, height), known = found.bandwidth, np.isfinite(found.energy_kT)
    x, y = np.meshgrid(*found.centres, indexing="ij")
    parabola = (x**2 / (1 + width**2) + y**2 / (9 + height**2)) / 2  # the kernel widens the distribution
    difference = (found.energy_kT - parabola)[known]
    assert np.median(np.abs(difference)) < 0.1 and 0.5 < np.std(difference / found.error_kT[known]) < 1.5
    assert known[(x**2 + y**2 / 9) < 4].all() and not known[(x**2 + y**2 / 9) > 20].any()


def test_the_energy_keeps_narrow_states_apart_and_is_unknown_between_them():
    generator = np.random.default_rng(0)
    states = generator.choice([-1.0, 1.0], 10_000, p=[0.2, 0.8])
    coordinates = np.stack([states + 0.05 * generator.normal(size=10_000), generator.normal(size=10_000)], 1)
    found = energy_landscape(coordinates)
    assert found.bandwidth[0] < 0.05 < found.bandwidth[1]
    assert np.isnan(found.energy_kT[np.abs(found.centres[0]) < 0.5]).all()
    rare = np.nanmin(found.energy_kT[found.centres[0] < 0])
    error = found.error_kT[found.centres[0] < 0][found.energy_kT[found.centres[0] < 0] == rare][0]
    assert abs(rare - np.log(4)) < 4 * error < 0.5  # a state with a quarter of the particles


def test_the_error_of_the_energy_falls_with_the_number_of_particles():
    few, many = (energy_landscape(np.random.default_rng(0).normal(size=(count, 2))) for count in (500, 20_000))
    assert np.nanmedian(few.error_kT) > 2 * np.nanmedian(many.error_kT)
