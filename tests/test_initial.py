"""The start from given poses: fixed poses stay, given poses improve, and predictions of a run at fixed poses keep them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_ab_initio import BRIEF, QUICK
from toys import hinged, make_toy

from hetacumn.ab_initio.guided import guided_start
from hetacumn.ab_initio.number_of_states import ab_initio
from hetacumn.ab_initio.start import START, load_start
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_config, read_run
from hetacumn.evaluation.scores import accuracy
from hetacumn.io import star
from hetacumn.network.checks import check_training
from hetacumn.network.config import TrainConfig
from hetacumn.network.training import TrainingJob, train_stack
from hetacumn.particles.metadata import Poses
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.fsc import fsc
from hetacumn.physics.rotations import distance_deg, perturb, turn
from hetacumn.prediction import trust
from hetacumn.prediction.classes import classify
from hetacumn.prediction.predict import predict_stack
from hetacumn.prediction.request import PredictionRequest
from hetacumn.search.initial import InitialData, InitialSettings, given_poses, pose_change
from hetacumn.search.subspace import volumes_at
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

DATA = Path(__file__).resolve().parents[1] / "data"
BOX, STACK_BOX = 24, 24
FIXED, GIVEN = (InitialSettings(poses) for poses in ("fixed", "given"))
SETTINGS = TrainConfig(classes=2, latent_dim=2, ab_initio=replace(QUICK, components=4, volumes=4))


@pytest.fixture(scope="module")
def toy(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 110)], 500, BOX, snr=0.5)


@pytest.fixture(scope="module")
def at_true_poses(toy):
    return guided_start(toy.data, InitialData(FIXED, toy.poses), QUICK, 0)


def test_a_start_without_information_is_the_start_from_images_alone(toy):
    whole, alone = guided_start(toy.data, InitialData(), BRIEF, 0), ab_initio(toy.data, BRIEF, 0, log=lambda line: None)
    torch.testing.assert_close(whole.basis, alone.basis, atol=0, rtol=0)
    assert whole.scores == alone.scores


def test_a_start_at_fixed_true_poses_keeps_them_and_finds_the_states(toy, at_true_poses):
    start = at_true_poses
    torch.testing.assert_close(start.poses.rotations, toy.poses.rotations, atol=0, rtol=0)
    torch.testing.assert_close(start.poses.shifts_px, toy.poses.shifts_px, atol=0, rtol=0)
    found = classify(start.latents, 2)
    assert accuracy(found.labels, toy.classes) >= 0.98
    volumes = volumes_at(found.centres, start.basis)
    for k in (0, 1):  # in the frame of the given poses, without alignment
        curves = torch.stack([fsc(volume, toy.volumes[k])[1:7].min() for volume in volumes])
        assert curves.max() > 0.85


def test_given_poses_with_errors_come_nearer_to_the_truth_in_their_frame(toy):
    noisy = Poses(perturb(toy.poses.rotations, 6.0, torch.Generator().manual_seed(1)), toy.poses.shifts_px)
    start = guided_start(toy.data, InitialData(GIVEN, noisy), QUICK, 0)
    before, after = (distance_deg(poses.rotations, toy.poses.rotations).median() for poses in (noisy, start.poses))
    assert after < 0.6 * before
    assert accuracy(classify(start.latents, 2).labels, toy.classes) >= 0.97


def test_an_interrupted_start_from_given_poses_continues_to_the_same_result(toy):
    initial, steps = InitialData(GIVEN, toy.poses), {}
    whole = guided_start(toy.data, initial, BRIEF, 0, keep=lambda name, made: steps.update({name: made}))
    done = {name: dict(steps[name]) for name in list(steps)[:2]}
    again = guided_start(toy.data, initial, BRIEF, 0, done=done)
    torch.testing.assert_close(again.basis, whole.basis, atol=0, rtol=0)
    torch.testing.assert_close(again.poses.rotations, whole.poses.rotations, atol=0, rtol=0)


def test_the_change_of_poses_is_the_angle_and_the_distance(toy):
    axis = torch.tensor([1.0, 0.0, 0.0])
    angles = torch.linspace(0, 10, len(toy.data))[:, None]
    moved = Poses(turn(toy.poses.rotations, angles * axis), toy.poses.shifts_px + torch.tensor([0.3, 0.4]))
    found = pose_change(moved, toy.poses)
    assert found["rotation_deg"]["median"] == pytest.approx(5.0, abs=0.01)
    assert found["rotation_deg"]["p90"] == pytest.approx(9.0, abs=0.01)
    assert found["shift_px"] == pytest.approx({"median": 0.5, "p90": 0.5})


def test_unknown_poses_are_refused_in_one_line():
    with pytest.raises(HetacumnError, match=r"initial.poses is 'known'; expected 'search', 'given' or 'fixed'"):
        InitialSettings.from_params({"initial": {"poses": "known"}})


@pytest.fixture(scope="module")
def posed(tmp_path_factory):
    """Simulate two states, and return a table without poses, a table with the true poses, and the truth."""
    if not (DATA / "adk.npz").exists():
        pytest.skip("data/ is absent: run `dvc pull`")
    out = tmp_path_factory.mktemp("posed")
    settings = {
        "structure": "adk",
        "states": ["open", "closed"],
        "particles": 240,
        "box": 48,
        "pixel_A": 2.1,
        "snr": 0.3,
        "shift_px": 2,
    }
    truth = simulate_stack(Simulation.from_params(settings), out, 0, DATA, progress=False)
    table = star.read_table(out / "particles.star")
    particles = table.particles.copy()
    star.set_poses(particles, truth.rotations, truth.shifts_A)
    star.write_table(out / "posed.star", particles, table.optics)
    return out / "particles.star", out / "posed.star", truth


@pytest.fixture(scope="module")
def stack(posed, tmp_path_factory):
    return prepare_stack(posed[1], tmp_path_factory.mktemp("prepared"), Preprocessing(box=STACK_BOX), progress=False)


@pytest.mark.parametrize("poses", ["given", "fixed"])
def test_a_table_without_angles_is_refused_before_preparation(posed, tmp_path, poses):
    job = TrainingJob("em", SETTINGS, tmp_path / "out", initial=InitialSettings(poses))
    expected = r"particles.star: no column rlnAngleRot, rlnAngleTilt, rlnAnglePsi; expected the angles of each particle"
    with pytest.raises(HetacumnError, match=expected):
        check_training(job, Preprocessing(box=STACK_BOX), posed[0], tmp_path / "out/prepared")
    assert not (tmp_path / "out").exists()
    check_training(job, Preprocessing(box=STACK_BOX), posed[1], tmp_path / "out/prepared")


@pytest.fixture(scope="module")
def fixed_run(stack, tmp_path_factory):
    out = tmp_path_factory.mktemp("fixed")
    train_stack(stack, TrainingJob("em", SETTINGS, out, 0.8, initial=FIXED))
    return out


def test_predictions_of_a_run_at_fixed_poses_keep_them(posed, stack, fixed_run, tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "LEAST_IMAGES", len(stack) + 1)
    truth: Truth = posed[2]
    answer = predict_stack(stack, fixed_run, PredictionRequest("searched", chunk=100), tmp_path)
    found = answer.predictions
    assert distance_deg(found.rotations, truth.rotations.float()).max() < 0.05
    torch.testing.assert_close(found.shifts_A, truth.shifts_A.float(), atol=1e-3, rtol=0)
    assert accuracy(found.classes, truth.classes) >= 0.97
    assert read_run(tmp_path)["pose_change"]["rotation_deg"] == {"median": 0.0, "p90": 0.0}


def test_a_run_records_that_its_poses_are_fixed_and_refuses_another_choice(stack, fixed_run):
    assert read_config(fixed_run)["initial"] == {"poses": "fixed"}
    assert read_run(fixed_run)["start_pose_change"]["shift_px"] == {"median": 0.0, "p90": 0.0}
    assert load_start(fixed_run / START).route == "given"
    with pytest.raises(HetacumnError, match="made with other values of initial.poses than requested"):
        train_stack(stack, TrainingJob("em", SETTINGS, fixed_run, 0.8))


def test_fixed_poses_of_a_stack_without_angles_are_refused(posed, fixed_run, tmp_path):
    other = prepare_stack(posed[0], tmp_path / "prepared", Preprocessing(box=STACK_BOX), progress=False)
    with pytest.raises(HetacumnError, match="no angles; expected the angles of every particle"):
        predict_stack(other, fixed_run, PredictionRequest("searched"), tmp_path / "out")


def test_given_poses_are_those_of_the_prepared_images(posed, stack):
    truth: Truth = posed[2]
    poses = given_poses(stack, "cpu")
    shifts_A = stack.metadata.shifts_in_source_A(poses.shifts_px * stack.pixel_A)
    torch.testing.assert_close(shifts_A, truth.shifts_A.float(), atol=1e-3, rtol=0)


def test_a_job_survives_its_file(tmp_path):
    job = TrainingJob("em", SETTINGS, str(tmp_path), initial=GIVEN)
    assert TrainingJob.from_json(job.to_json()) == job
