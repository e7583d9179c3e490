"""Scores of perfect, permuted and random predictions; scores do not depend on frame, hand and class names."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.evaluation import scores
from hetacumn.evaluation.scores import (
    accuracy,
    adjusted_rand,
    confusion,
    disentanglement,
    match_classes,
    motion_correlations,
    pose_errors,
    score,
    score_folder,
    shift_errors,
)
from hetacumn.particles.predictions import Predictions
from hetacumn.physics.rotations import MIRROR, distance_deg, perturb, random_rotations
from hetacumn.simulation.truth import Truth

TRUE = np.repeat([0, 1, 2], [50, 30, 20])


def test_permuted_class_names_are_correct():
    predicted = np.array([2, 0, 1])[TRUE]
    assert accuracy(predicted, TRUE) == 1
    assert adjusted_rand(predicted, TRUE) == 1
    assert match_classes(predicted, TRUE).tolist() == [1, 2, 0]
    assert confusion(predicted, TRUE).tolist() == np.diag([50, 30, 20]).tolist()


def test_accuracy_with_a_known_fraction_of_errors():
    predicted = TRUE.copy()
    predicted[:10] = 1
    assert accuracy(predicted, TRUE) == pytest.approx(0.9)
    assert confusion(predicted, TRUE)[0].tolist() == [40, 10, 0]


def test_one_predicted_class_scores_the_fraction_of_the_largest_true_class():
    assert accuracy(np.zeros_like(TRUE), TRUE) == 0.5
    assert adjusted_rand(np.zeros_like(TRUE), TRUE) == pytest.approx(0)


def test_particles_of_surplus_classes_count_as_errors():
    predicted = TRUE.copy()
    predicted[:20] = 3
    assert accuracy(predicted, TRUE) == pytest.approx(0.8)
    assert confusion(predicted, TRUE).shape == (4, 4)


def test_labels_of_different_length_are_refused():
    with pytest.raises(ValueError, match="99 and 100"):
        accuracy(TRUE[1:], TRUE)


@pytest.mark.parametrize("mirrored", [False, True])
def test_pose_error_does_not_depend_on_frame_and_hand(device, generator, mirrored):
    true = random_rotations(500, generator, device)
    frame = random_rotations(1, generator, device)
    noisy = perturb(true, 2.0, generator)
    expected = distance_deg(noisy, true)
    estimated = (MIRROR.to(device) @ noisy if mirrored else noisy) @ frame
    errors, found = pose_errors(estimated, true)
    assert found.mirrored == mirrored
    assert errors.device.type == device
    assert float(distance_deg(found.rotation, frame[0].mT)) < 0.6
    assert torch.allclose(errors.median(), expected.median(), atol=0.15)


def test_pose_error_of_random_poses_is_large(device, generator):
    one, other = (random_rotations(1000, generator, device) for _ in range(2))
    errors, _ = pose_errors(one, other)
    assert errors.median() > 90


def test_shift_error_does_not_depend_on_the_position_of_the_volume(device, generator):
    rotations = random_rotations(400, generator, device)
    true = torch.randn(400, 2, generator=generator, device=device)
    position = torch.tensor([3.0, -5.0, 7.0], device=device)
    estimated = true - (rotations @ position)[:, :2]
    estimated[:40] += 20  # 10 % of the shifts are wrong
    errors, found = shift_errors(estimated, true, rotations)
    assert torch.allclose(found, position, atol=1e-3)
    assert errors[40:].max() < 1e-3
    assert torch.allclose(errors[:40], torch.tensor(800.0**0.5, device=device), atol=1e-2)


def test_latents_of_the_class_alone_predict_the_class_and_not_the_view(generator):
    random = np.random.default_rng(0)
    rotations = random_rotations(1500, torch.Generator().manual_seed(0))
    classes = random.integers(0, 3, 1500)
    latents = np.eye(3)[classes] + 0.1 * random.standard_normal((1500, 3))
    known = disentanglement(latents, classes, rotations)
    assert known["class_from_z"] > 0.99
    assert known["class_chance"] < 0.4
    assert abs(known["view_from_z_deg"] - known["view_chance_deg"]) < 3


def test_latents_of_the_view_alone_predict_the_view_and_not_the_class():
    random = np.random.default_rng(0)
    rotations = random_rotations(1500, torch.Generator().manual_seed(0))
    classes = random.integers(0, 2, 1500)
    known = disentanglement(rotations[:, 2].numpy(), classes, rotations)
    assert known["view_from_z_deg"] < 10 and known["view_chance_deg"] > 80
    assert abs(known["class_from_z"] - 0.5) < 0.05


def test_disentanglement_without_latents_is_nan():
    known = disentanglement(np.empty((10, 0)), np.zeros(10, int), torch.eye(3).expand(10, 3, 3))
    assert len(known) == 4 and all(np.isnan(v) for v in known.values())


@pytest.fixture
def answer(blobs, generator, device):
    """Return a truth of two classes and perfect predictions with other class names, hand, frame and position."""
    n, box, voxel_A = 300, 32, 4.0
    classes = torch.arange(n) % 2
    other = blobs.moved()
    other.points = other.points * torch.tensor([1.0, 0.5, 1.0])
    rotations = random_rotations(n, generator, device)
    shifts_A = torch.randn(n, 2, generator=generator, device=device) * voxel_A
    truth = Truth(
        rotations, shifts_A, classes, classes.float(), torch.zeros_like(classes), torch.empty(0, 8, 8), snr=0.1, noise_std=1.0
    )
    true_volumes = torch.stack([molecule.volume(box, device) for molecule in (blobs, other)])

    frame = random_rotations(1, generator, device)[0]  # x_est = -G x_true + t, R_true = MIRROR R_est G
    at_px = torch.tensor([1.0, -1.0, 1.0], device=device)
    estimated = MIRROR.to(device) @ rotations @ frame.mT
    shifts = shifts_A - (estimated @ at_px)[:, :2] * voxel_A
    moved = [m.moved(frame, at_px.cpu() / box, mirrored=True).volume(box, device) for m in (other, blobs)]
    latents = classes[:, None] + 0.01 * torch.randn(n, 2)
    predictions = Predictions([f"{i}@stack.mrcs" for i in range(n)], estimated, shifts, 1 - classes, latents)
    seen = np.arange(n) < 200
    return {
        "predictions": predictions,
        "volumes": torch.stack(moved),
        "truth": truth,
        "true_volumes": true_volumes,
        "voxel_A": voxel_A,
        "seen": seen,
    }


def test_score_of_perfect_predictions_in_another_frame(answer):
    found = score(**answer)
    assert found.row["accuracy"] == found.row["accuracy_unseen"] == found.row["ari"] == 1
    assert found.row["rotation_error_deg"] < 0.1
    assert found.row["shift_error_A"] < 0.01
    assert found.row["resolution_A"] == 2 * answer["voxel_A"]
    assert found.row["class_from_z"] == 1
    assert found.fsc.shape == (2, 16) and found.volumes.shape == answer["true_volumes"].shape


@pytest.mark.parametrize("device", ["cpu"])
def test_images_without_a_particle_and_dropped_images_do_not_count(answer, tmp_path, monkeypatch):
    junk, kept = torch.arange(300) % 10 == 3, np.delete(np.arange(300), [0, 7, 250])
    known, wrong = answer["predictions"], answer["predictions"].classes.clone()
    names, others = pd.Index(known.names), (answer["true_volumes"], answer["voxel_A"])
    wrong[junk] = 1 - wrong[junk]
    monkeypatch.setattr(Predictions, "read", lambda folder: replace(known, classes=wrong)[kept[::-1].copy()])
    monkeypatch.setattr(scores, "read_volumes", lambda *_: (answer["volumes"], answer["voxel_A"]))
    with_junk = replace(answer["truth"], junk=junk.long())
    assert score_folder(tmp_path, answer["truth"], names, *others).row["accuracy"] < 0.96
    found = score_folder(tmp_path, with_junk, names, *others)
    assert found.row["accuracy"] == 1 and len(found.rotation_error_deg) == 267 and found.row["rotation_error_deg"] < 0.1
    with pytest.raises(HetacumnError, match="prediction of 299@stack.mrcs; expected images of the truth"):
        score_folder(tmp_path, answer["truth"], names[:299], *others)


def test_score_aligns_the_volumes_also_if_the_poses_are_random(answer, generator, device):
    lost = replace(answer["predictions"], rotations=random_rotations(300, generator, device))
    found = score(**answer | {"predictions": lost})
    assert found.row["rotation_error_deg"] > 60
    assert found.row["resolution_A"] == 2 * answer["voxel_A"]


def test_score_uses_one_matching_of_classes_for_seen_and_unseen_particles(answer):
    predicted = answer["predictions"].classes.clone()
    predicted[200:] = 1 - predicted[200:]  # all unseen particles are wrong
    found = score(**answer | {"predictions": replace(answer["predictions"], classes=predicted)})
    assert found.row["accuracy"] == pytest.approx(2 / 3)
    assert found.row["accuracy_unseen"] == 0


def test_score_has_the_accuracy_of_the_half_with_the_higher_class_probability(answer):
    predicted, certainty = answer["predictions"].classes.clone(), torch.ones(300)
    predicted[:60], certainty[:60], certainty[60:150] = 1 - predicted[:60], 0.6, 0.7  # 20 % are wrong, with probability 0.6
    for known, expected in ((None, "nan"), (certainty, 1.0), (1 - certainty, 0.6)):
        predictions = replace(answer["predictions"], classes=predicted, class_probabilities=known)
        row = score(**answer | {"predictions": predictions}).row
        assert row["accuracy"] == pytest.approx(0.8)
        assert row["accuracy_surer_half"] == pytest.approx(float(expected), nan_ok=True)


def test_score_of_a_missing_volume_has_the_resolution_of_the_box(answer):
    found = score(**answer | {"volumes": answer["volumes"][:1]})
    assert found.row["resolution_A"] == 32 * answer["voxel_A"]


def test_motions_are_matched_to_the_coordinates_that_correlate_with_them():
    true = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(500, generator=torch.Generator().manual_seed(1))
    found = torch.stack([noise, -(true[:, 1] ** 3), true[:, 0] + 0.1 * noise], 1)
    correlations, own = motion_correlations(found, true)
    assert own.tolist() == [2, 1]
    assert correlations[1] == pytest.approx(1.0) and 0.9 < correlations[0] < 1
