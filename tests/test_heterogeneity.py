"""The metrics of CryoBench: exact values on toys, bounds for the truth, chance for a shuffled latent, and other libraries."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from hetacumn.evaluation.heterogeneity import (
    adjusted_mutual_information,
    area_under_fsc,
    compare_conformations,
    conformation_space,
    information_imbalance,
    latent_space,
    neighbourhood_similarity,
)
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.volumes import mirror, rotate
from hetacumn.reconstruction.kernel_maps import latent_distances
from hetacumn.search.subspace import volumes_at
from hetacumn.simulation.molecules import Atoms
from hetacumn.simulation.projection import density

GENERATOR = torch.Generator().manual_seed(0)
CLASSES = torch.arange(400) % 20  # 20 conformations of 20 images


def ring(classes: torch.Tensor) -> torch.Tensor:
    angles = 2 * math.pi * classes / 20
    return torch.stack([angles.cos(), angles.sin()], 1)


def line(*points: float) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float32)[:, None]


def molecule(seed: int = 0) -> Atoms:
    generator = torch.Generator().manual_seed(seed)
    positions = 12 * torch.randn(60, 3, generator=generator).clamp(-1.6, 1.6)
    return Atoms(positions, torch.ones(60), torch.full((60,), 3.0), np.full(60, "all"))


def test_the_imbalance_of_a_toy_is_the_one_computed_by_hand():
    first, second = line(0, 1, 3, 7), line(0, 5, 1, 2)
    # nearest in first: 1 of 0, 0 of 1, 1 of 2, 2 of 3; their ranks in second: 3, 3, 3, 1
    assert information_imbalance(first, second) == pytest.approx(2 / 4 * (3 + 3 + 3 + 1) / 4)
    # nearest in second: 2 of 0, 3 of 1, 0 and 3 of 2 (tied), 2 of 3; their ranks in first: 2, 3, 2 and 3, 1
    assert information_imbalance(second, first) == pytest.approx(2 / 4 * (2 + 3 + 2.5 + 1) / 4)


def test_the_similarity_of_a_toy_is_the_one_computed_by_hand():
    true, found = line(0, 1, 3, 7), line(0, 5, 1, 2.6)
    # two nearest in true: {1, 2}, {0, 2}, {1, 0}, {2, 1}; in found: {2, 3}, {3, 2}, {0, 3}, {2, 1}
    assert neighbourhood_similarity(true, found, 2) == pytest.approx((1 + 1 + 1 + 2) / 8)
    assert neighbourhood_similarity(true, true, 1) == 1 and neighbourhood_similarity(true, found, 3) == 1
    with pytest.raises(ValueError, match="4 images; expected more than the 4"):
        neighbourhood_similarity(true, found, 4)


def test_true_conformations_reach_the_bounds():
    true = ring(CLASSES)
    for neighbours in (5, 19, 40):
        assert neighbourhood_similarity(true, 3 * true, neighbours) == 1
    # 19 images of the same conformation share the rank 10
    assert information_imbalance(true, 3 * true) == pytest.approx(2 * 10 / 400)


def test_a_shuffled_latent_is_at_chance():
    true = ring(CLASSES)
    shuffled = true[torch.randperm(400, generator=GENERATOR)] + 1e-3 * torch.randn(400, 2, generator=GENERATOR)
    near = 19 + 40  # the 40 nearest are 19 of the own conformation and both neighbours, which are tied
    assert neighbourhood_similarity(true, shuffled, 40) == pytest.approx(near / 399, abs=0.01)
    assert information_imbalance(true, shuffled) == pytest.approx(1, abs=0.02)
    assert information_imbalance(shuffled, true) == pytest.approx(1, abs=0.1)
    poses = random_rotations(400, GENERATOR).flatten(1)
    assert information_imbalance(poses, true) == pytest.approx(1, abs=0.1)
    assert information_imbalance(poses, poses) == pytest.approx(2 / 400)


def test_without_ties_the_metrics_are_those_of_scikit_learn_neighbours():
    first = torch.randn(300, 3, generator=GENERATOR)
    second = first @ torch.randn(3, 2, generator=GENERATOR) + 0.3 * torch.randn(300, 2, generator=GENERATOR)
    order = [NearestNeighbors(n_neighbors=299).fit(points).kneighbors(return_distance=False) for points in (first, second)]
    ranks = [1 + int(np.flatnonzero(order[1][i] == order[0][i, 0])[0]) for i in range(300)]
    assert information_imbalance(first, second) == pytest.approx(2 / 300 * np.mean(ranks))
    common = [len(set(order[0][i, :30]) & set(order[1][i, :30])) / 30 for i in range(300)]
    assert neighbourhood_similarity(first, second, 30) == pytest.approx(np.mean(common))


def test_a_lossy_space_knows_less_than_the_whole():
    whole = torch.randn(500, 2, generator=GENERATOR)
    part = whole[:, :1]
    assert information_imbalance(whole, part) < 0.1 < 0.4 < information_imbalance(part, whole)


def test_the_distance_of_conformations_is_the_rmsd_of_their_atoms_or_the_norm_of_their_volumes():
    first = molecule()
    moved = replace(first, positions_A=first.positions_A + torch.tensor([2.0, 0.0, 0.0]))
    classes, volumes = torch.tensor([0, 1, 1, 0]), torch.stack([density(one, 32, 3.0) for one in (first, moved)])
    points = conformation_space([first, moved], volumes, classes)
    assert points.shape == (4, 2) and torch.equal(points[0], points[3])
    assert torch.pdist(points[:2]).item() == pytest.approx(2.0, rel=1e-4)
    smaller = Atoms(first.positions_A[:30], first.weights[:30], first.widths_A[:30], first.parts[:30])
    volumes = torch.stack([volumes[0], density(smaller, 32, 3.0)])
    points = conformation_space([first, smaller], volumes, classes)
    assert torch.pdist(points[:2]).item() == pytest.approx(float((volumes[0] - volumes[1]).norm()), rel=1e-4)


def test_the_distance_of_latents_is_that_of_their_volumes():
    basis, latents = torch.randn(4, 8, 8, 8, generator=GENERATOR), torch.randn(10, 3, generator=GENERATOR)
    points = latent_space(latents, basis[1:])
    assert torch.allclose(torch.pdist(points), torch.pdist(volumes_at(latents, basis).flatten(1)), rtol=1e-4)
    assert torch.allclose((points - points[0]).norm(dim=1), latent_distances(latents, latents[0], basis[1:]), atol=1e-3)


def test_the_area_of_known_curves():
    assert area_under_fsc(torch.ones(64), 128) == pytest.approx(63 / 128)
    assert area_under_fsc(torch.ones(2, 16), 128).tolist() == pytest.approx([15 / 128] * 2)
    ramp = torch.linspace(1, 0, 65)[:64]  # falls to 0 at Nyquist
    assert area_under_fsc(ramp, 128) == pytest.approx(0.25, abs=1e-3)
    assert area_under_fsc(torch.tensor([-1.0, 1.0]), 128) == pytest.approx(1 / 128)  # shell 0 counts as 1


def test_an_equal_volume_has_the_largest_area_at_any_box_and_in_any_frame_and_hand():
    true = density(molecule(), 48, 3.0)
    curve = compare_conformations(true, true)
    assert area_under_fsc(curve, 48) == pytest.approx(23 / 48, abs=1e-4)
    small = compare_conformations(crop_volumes(true, 32), true)
    assert area_under_fsc(small, 48) == pytest.approx(15 / 48, abs=1e-3)
    turned = mirror(rotate(true, random_rotations(1, GENERATOR)[0], shift_px=torch.tensor([1.0, -2.0, 0.5])))
    assert area_under_fsc(compare_conformations(turned, true), 48) < 0.25
    assert compare_conformations(turned, true, aligned=False)[:12].min() > 0.9


def test_the_area_of_another_conformation_is_smaller():
    true, other = (density(molecule(seed), 32, 3.0) for seed in (0, 1))
    assert area_under_fsc(compare_conformations(other, true), 32) < 0.3 < 15 / 32 - 0.1


def test_mutual_information_is_adjusted_for_chance():
    generator = np.random.default_rng(0)
    true = generator.integers(5, size=2000)
    assert adjusted_mutual_information(4 - true, true) == pytest.approx(1)
    assert adjusted_mutual_information(generator.permutation(true), true) == pytest.approx(0, abs=0.01)
