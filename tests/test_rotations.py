"""Rotations: conventions by known answers, round trips, distances, and alignment of two sets of poses."""

import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from hetacumn.physics.rotations import (
    MIRROR,
    agreeing,
    align,
    distance_deg,
    from_6d,
    from_euler,
    inplane,
    perturb,
    random_rotations,
    to_euler,
    view_grid,
)


def about(axis: str, degrees: float) -> torch.Tensor:
    return torch.from_numpy(Rotation.from_euler(axis, degrees, degrees=True).as_matrix()).float()


def assert_rotations(rotations):
    identity = torch.eye(3, device=rotations.device).expand_as(rotations)
    assert torch.allclose(rotations @ rotations.mT, identity, atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones_like(rotations[..., 0, 0]))


def test_random_rotations_are_rotations_and_uniform(device, generator):
    rotations = random_rotations(20000, generator, device)
    assert_rotations(rotations)
    assert rotations.mean(0).abs().max() < 0.02  # the mean of SO(3) is 0
    angle = torch.deg2rad(distance_deg(rotations, torch.eye(3, device=device)))
    assert float(angle.mean()) == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.02)  # density (1 - cos) / π


def test_the_same_seed_gives_the_same_rotations(device):
    first, second = (random_rotations(5, torch.Generator(device).manual_seed(3), device) for _ in range(2))
    assert torch.equal(first, second)


def test_euler_angles_round_trip(device, generator):
    rotations = random_rotations(1000, generator, device)
    assert distance_deg(from_euler(to_euler(rotations)), rotations).max() < 1e-2


@pytest.mark.parametrize("tilt", [0.0, 1e-3, 180.0, 180.0 - 1e-3])
def test_euler_angles_round_trip_where_rot_and_psi_rotate_about_one_axis(device, tilt):
    angles = torch.tensor([[10.0, tilt, 20.0], [-170.0, tilt, 90.0], [0.0, tilt, 0.0]], device=device)
    rotations = from_euler(angles.double())
    assert distance_deg(from_euler(to_euler(rotations)), rotations).max() < 1e-3
    assert to_euler(rotations).isfinite().all()


def test_euler_angles_agree_with_scipys_intrinsic_zyz():
    angles = torch.tensor([[30.0, 40.0, 50.0], [-120.0, 100.0, 5.0]])
    ours = from_euler(angles)
    theirs = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).inv().as_matrix()
    assert torch.allclose(ours, torch.from_numpy(theirs).float(), atol=1e-6)


def test_euler_angles_give_the_view_direction():
    rot, tilt = torch.tensor(30.0), torch.tensor(50.0)
    view = from_euler(torch.stack([rot, tilt, torch.tensor(77.0)]))[2]  # the object's direction along view z
    a, b = torch.deg2rad(rot), torch.deg2rad(tilt)
    assert torch.allclose(view, torch.stack([b.sin() * a.cos(), b.sin() * a.sin(), b.cos()]), atol=1e-6)


def test_a_rotation_takes_object_to_view():
    quarter = from_euler(torch.tensor([-90.0, 0.0, 0.0]))  # + 90° about z: x goes to y
    assert torch.allclose(quarter @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_inplane_is_psi_alone(device):
    angles = torch.tensor([0.0, 33.0, -100.0], device=device)
    euler = torch.stack([torch.zeros_like(angles), torch.zeros_like(angles), angles], dim=1)
    assert torch.allclose(inplane(angles), from_euler(euler), atol=1e-6)


def test_six_numbers_give_the_first_two_rows(device, generator):
    rotations = random_rotations(50, generator, device)
    assert torch.allclose(from_6d(3 * rotations[:, :2].flatten(1)), rotations, atol=1e-5)
    assert_rotations(from_6d(torch.randn(50, 6, generator=generator, device=device)))


def test_view_grid_covers_the_sphere_evenly():
    grid = view_grid(4)
    assert len(grid) == 192
    assert_rotations(grid)
    views = grid[:, 2]
    assert views.mean(0).abs().max() < 1e-5
    nearest = (views @ views.T - 2 * torch.eye(192)).max(1).values.clamp(max=1)
    assert torch.rad2deg(torch.acos(nearest)).min() > 8  # HEALPix of nside 4 is spaced by about 15°
    points = random_rotations(2000, torch.Generator().manual_seed(0))[:, 2]
    assert torch.rad2deg(torch.acos((points @ views.T).max(1).values.clamp(max=1))).max() < 13


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 1.0, 90.0, 179.0, 180.0])
def test_distance_is_the_angle(device, degrees):
    turn = about("x", degrees).to(device)
    start = random_rotations(3, torch.Generator(device).manual_seed(0), device)
    tolerance = 0.05 if degrees == 180 else 0.01  # there the chord hardly grows with the angle
    assert distance_deg(turn @ start, start).cpu().numpy() == pytest.approx(degrees, abs=tolerance)
    assert distance_deg(start @ turn, start).cpu().numpy() == pytest.approx(degrees, abs=tolerance)


def test_perturb_rotates_by_about_the_given_angle(device, generator):
    rotations = random_rotations(5000, generator, device)
    errors = distance_deg(perturb(rotations, 2.0, generator), rotations)
    assert float(errors.square().mean().sqrt()) == pytest.approx(2 * 3**0.5, rel=0.05)


@pytest.mark.parametrize("mirrored", [False, True])
def test_align_finds_frame_and_hand_despite_outliers(device, generator, mirrored):
    true = random_rotations(600, generator, device)
    frame = random_rotations(1, generator, device)[0]
    estimated = (MIRROR.to(device) @ true if mirrored else true) @ frame
    estimated[:150] = random_rotations(150, generator, device)
    found = align(estimated, true)
    assert found.mirrored == mirrored
    assert distance_deg(found.rotation, frame.mT) < 0.05
    assert distance_deg(found.apply(estimated), true)[150:].max() < 0.1


@pytest.mark.parametrize("mirrored", [False, True])
def test_align_accepts_every_equivalent_pose_of_a_symmetric_object(device, generator, mirrored):
    true = random_rotations(600, generator, device)
    symmetry = inplane(torch.arange(0, 360, 90.0)).to(device)
    frame = random_rotations(1, generator, device)[0]
    chosen = true @ symmetry[torch.arange(600) % 4]
    found = align((MIRROR.to(device) @ chosen if mirrored else chosen) @ frame, true, symmetry=symmetry)
    assert found.mirrored == mirrored
    assert distance_deg(frame @ found.rotation, symmetry).min() < 0.05


def test_align_distinguishes_a_mirrored_frame_from_a_rotated_one(generator, device):
    true = random_rotations(300, generator, device)
    assert not align(true, true).mirrored
    assert align(MIRROR.to(device) @ true, true).mirrored


def test_exact_poses_align_exactly(device, generator):
    true = random_rotations(100, generator, device)
    vector = torch.tensor([0.1, -0.2, 0.3], device=device)
    found = align(true @ roma.rotvec_to_rotmat(vector), true)
    assert distance_deg(found.rotation, roma.rotvec_to_rotmat(-vector)) < 1e-2


def test_poses_of_a_part_agree_in_any_frame_and_hand(generator, device):
    known = random_rotations(200, generator, device)
    frame = random_rotations(1, generator, device)[0]
    found = perturb(known, 1.0, generator) @ frame
    found[::4] = random_rotations(50, generator, device)
    for poses in (found, MIRROR.to(device) @ found):
        agree = agreeing(poses, known)
        assert not agree[::4].float().mean() > 0.04 and agree.float().mean() > 0.74
    assert not agreeing(random_rotations(200, generator, device), known).any()


def test_poses_agree_up_to_the_symmetry_of_the_object(generator, device):
    known = random_rotations(300, generator, device)
    about_z = inplane(torch.arange(3) * 120.0).to(device)
    found = perturb(known, 1.0, generator) @ about_z[torch.arange(300, device=device) % 3]
    assert agreeing(found, known).all()
    rare = perturb(known, 1.0, generator) @ about_z[(torch.arange(300, device=device) % 5 == 0).long()]
    assert agreeing(rare, known).float().mean() == pytest.approx(0.8, abs=0.01)  # a wrong pose that noise prefers
