"""The placement of the volumes of several conformations in one frame."""

import pytest
import roma
import torch
from conftest import Blobs

from hetacumn.particles.metadata import Poses
from hetacumn.physics.alignment import Placement
from hetacumn.physics.common_frame import largest_difference_deg, place_together
from hetacumn.physics.rotations import Frame, distance_deg, random_rotations
from hetacumn.physics.volumes import low_passed
from hetacumn.search.clusters import Clusters, move_frames, place_again

STATES = 6


def turned_half(degrees: float) -> Blobs:
    """Return a molecule of two parts of the same size; the second part turns about the x axis by ``degrees``."""
    molecule = Blobs(20, 0.035)
    fixed = molecule.points * torch.tensor([0.9, 0.6, 0.7]) + torch.tensor([-0.13, 0.0, 0.0])
    arm = molecule.points[:, [2, 0, 1]] * torch.tensor([0.7, 0.9, 0.6]) + torch.tensor([0.13, 0.06, 0.0])
    turn = roma.rotvec_to_rotmat(torch.tensor([1.0, 0.0, 0.0]) * torch.deg2rad(torch.tensor(degrees)))
    molecule.points = torch.cat([fixed, arm @ turn.T])
    return molecule


def random_place(generator: torch.Generator, mirrored: bool) -> Placement:
    return Placement(Frame(random_rotations(1, generator)[0], mirrored), torch.randn(3, generator=generator))


@pytest.mark.parametrize("hands", [(False, False), (False, True), (True, False), (True, True)])
def test_placements_form_a_group_that_acts_on_volumes(blobs, hands):
    generator = torch.Generator().manual_seed(0)
    first, second = (random_place(generator, hand) for hand in hands)
    volume = low_passed(blobs.volume(32), 8.0)
    once, twice = first.then(second).apply(volume), second.apply(first.apply(volume))
    assert (once - twice).norm() < 0.03 * volume.norm()
    nothing = first.then(first.inverse())
    assert largest_difference_deg([nothing], [Placement.identity()]) < 0.1
    assert nothing.shift_px.norm() < 1e-4


@pytest.mark.slow
def test_conformations_in_random_frames_and_hands_get_one_frame():
    """One half of the molecule turns through 360°, so that the core is not larger than the moving part."""
    generator, volumes, true = torch.Generator().manual_seed(0), [], []
    for k in range(STATES):
        away = random_place(generator, mirrored=k % 3 == 1)
        volume = turned_half(k * 360 / STATES).volume(32)
        noise = low_passed(torch.randn(32, 32, 32, generator=generator), 12.0)
        volumes.append(away.apply(volume) + 0.1 * volume.std() / noise.std() * noise)
        true.append(away)
    places = place_together(torch.stack(volumes), 2, [Placement.identity()] * STATES)
    assert largest_difference_deg([places[2]], [Placement.identity()]) < 0.1
    frames = [away.then(place) for away, place in zip(true, places, strict=True)]  # of the true volumes
    assert len({frame.frame.mirrored for frame in frames}) == 1
    rotations = torch.stack([frame.frame.rotation for frame in frames])
    assert distance_deg(rotations, roma.special_procrustes(rotations.sum(0))).max() < 4
    assert largest_difference_deg(places, [Placement.identity()] * STATES) == 180  # the measure before


@pytest.mark.slow
def test_the_measure_finds_a_volume_outside_the_common_frame():
    volumes = torch.stack([turned_half(degrees).volume(32) for degrees in (0.0, 40.0, 80.0)])
    labels = torch.arange(3).repeat(10, 1).T.flatten()
    counts = torch.tensor([10, 11, 10])  # the second volume defines the frame
    poses = Poses(random_rotations(30, torch.Generator().manual_seed(0)), torch.zeros(30, 2))
    right = Clusters(labels, torch.zeros(3, 1), volumes, counts)
    assert place_again(right)[1] < 3
    away = Placement(Frame(roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, 3.0])), False), torch.tensor([0.5, 0.0, 0.0]))
    moved, moved_poses = move_frames(right, poses, [away, Placement.identity(), Placement.identity()])
    wrong = Clusters(labels, torch.zeros(3, 1), moved, counts)
    places, error_deg = place_again(wrong)
    assert error_deg == pytest.approx(torch.rad2deg(torch.tensor(3.0)), abs=4)
    _, back = move_frames(wrong, moved_poses, places)
    assert distance_deg(back.rotations, poses.rotations).max() < 3
    assert (back.shifts_px - poses.shifts_px).abs().max() < 0.2
    assert place_again(Clusters(labels[:20], torch.zeros(2, 1), volumes[:2], counts[:2]))[1] is None
