"""The start with a symmetry: poses up to the group, the copy of each image, and expanded particle tables."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Blobs
from test_ab_initio import QUICK
from toys import likelihood_at, make_toy
from tqdm import tqdm

from hetacumn.ab_initio.guided import guided_start
from hetacumn.ab_initio.number_of_states import ab_initio
from hetacumn.ab_initio.relaxation import log_likelihoods
from hetacumn.ab_initio.stochastic_em import with_symmetry
from hetacumn.common.run_files import read_run
from hetacumn.common.settings import with_settings
from hetacumn.evaluation.scores import accuracy
from hetacumn.io.star import ANGLES, expanded, read_table, set_poses, write_table
from hetacumn.network.config import TrainConfig
from hetacumn.network.training import TrainingJob, train_stack
from hetacumn.particles.metadata import Poses
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.rotations import align, distance_deg, equivalent, from_euler, random_rotations, to_euler
from hetacumn.physics.slices import Slicer
from hetacumn.physics.symmetry import symmetry_rotations
from hetacumn.prediction import trust
from hetacumn.prediction.classes import classify
from hetacumn.prediction.predict import predict_stack
from hetacumn.prediction.request import PredictionRequest
from hetacumn.search.initial import InitialData, InitialSettings, pose_distances
from hetacumn.search.pose_prior import nearest_copies
from hetacumn.search.subspace import likeliest_copies
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

DATA = Path(__file__).resolve().parents[1] / "data"
BOX = 24
GROUP = symmetry_rotations("C5")
SYMMETRIC = with_settings(replace(QUICK, volumes=1), {"consensus": {"symmetry": "C5"}})


def copies(different: int | None, group=GROUP) -> Blobs:
    """Return the copies of six blobs by a group, of which one may have another shape."""
    generator = torch.Generator().manual_seed(3)
    middle = torch.tensor([0.2, 0.0, 0.0]) if group is GROUP else torch.tensor([0.17, 0.06, 0.12])
    copy = middle + torch.randn(6, 3, generator=generator) * torch.tensor([0.04, 0.04, 0.06])
    other = torch.cat([copy[:3] + torch.tensor([0.06, 0.0, 0.16]), copy[3:]])
    molecule = Blobs()
    molecule.points = torch.cat([(other if k == different else copy) @ g.T for k, g in enumerate(group)])
    return molecule


@pytest.fixture(scope="module")
def toy():
    return make_toy([copies(0)], 400, BOX, snr=1.0)


def scrambled(poses: Poses) -> Poses:
    """Replace each pose by a random equivalent one."""
    chosen = torch.randint(len(GROUP), (len(poses.rotations),), generator=torch.Generator().manual_seed(1))
    return Poses(poses.rotations @ GROUP[chosen], poses.shifts_px)


def copy_accuracy(rotations, true, group=GROUP) -> tuple[float, float]:
    """Return the share of images with one and the same copy, and with an error below 10° up to the group."""
    frame = align(rotations, true, symmetry=group)
    errors, found = distance_deg(frame.apply(rotations)[:, None], equivalent(true, group)).min(1)
    return float(found.bincount().max() / len(found)), float((errors < 10).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["C5", "D3"])
def test_a_start_from_images_alone_finds_the_differing_copy(toy, name):
    group = symmetry_rotations(name)
    images = toy if name == "C5" else make_toy([copies(0, group)], 400, BOX, snr=1.0)
    config = with_settings(SYMMETRIC, {"consensus": {"symmetry": name}})
    start = ab_initio(images.data, config, seed=0, log=lambda line: None)
    right, near = copy_accuracy(start.poses.rotations, images.poses.rotations, group)
    assert near > 0.9 and right > 0.9 and start.route == "relaxed"


@pytest.mark.slow
def test_states_with_and_without_the_symmetry_are_found_together():
    images = make_toy([copies(None), copies(0)], 600, BOX, snr=1.0)
    initial = InitialData(InitialSettings("given"), scrambled(images.poses))
    start = guided_start(images.data, initial, replace(SYMMETRIC, volumes=2), 0)
    assert accuracy(classify(start.latents, 2).labels, images.classes) > 0.97
    broken = images.classes == 1
    assert copy_accuracy(start.poses.rotations[broken], images.poses.rotations[broken])[0] > 0.95


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
@pytest.mark.parametrize("poses", ["given", "fixed"])
def test_predictions_find_the_differing_copy_of_a_ring(tmp_path, monkeypatch, poses):
    monkeypatch.setattr(trust, "LEAST_IMAGES", 1000)
    molecule = {"structure": "ring", "copies": [[1, 0, 0, 0, 0]], "pixel_A": 3.2, "box": 48, "shift_px": 1}
    settings = Simulation.from_params({**molecule, "particles": 240, "snr": 0.5})
    truth = simulate_stack(settings, tmp_path, 0, DATA, progress=False)
    table = read_table(tmp_path / "particles.star")
    given = scrambled(Poses(truth.rotations.float(), truth.shifts_A.float()))
    set_poses(table.particles, given.rotations, given.shifts_px)
    write_table(tmp_path / "posed.star", table.particles, table.optics)
    stack = prepare_stack(tmp_path / "posed.star", tmp_path / "prepared", Preprocessing(box=BOX), progress=False)
    config = TrainConfig(classes=1, latent_dim=2, ab_initio=SYMMETRIC)
    train_stack(stack, TrainingJob("em", config, tmp_path / "run", 0.8, initial=InitialSettings(poses)))
    found = predict_stack(stack, tmp_path / "run", PredictionRequest("searched"), tmp_path / "run").predictions
    right, near = copy_accuracy(found.rotations, truth.rotations.float())
    assert right > 0.95 and near > 0.95
    change = read_run(tmp_path / "run")["pose_change"]["rotation_deg"]
    assert change["p90"] < 0.1 if poses == "fixed" else change["median"] < 3


@pytest.mark.parametrize("poses", ["given", "fixed"])
def test_a_start_from_poses_up_to_the_group_finds_the_differing_copy(toy, poses):
    given = scrambled(toy.poses)
    start = guided_start(toy.data, InitialData(InitialSettings(poses), given), SYMMETRIC, 0)
    right, near = copy_accuracy(start.poses.rotations, toy.poses.rotations)
    assert near > 0.98 and right > 0.98
    moved = pose_distances(start.poses, given, "C5")["rotation_deg"]
    assert moved.max() < 0.05 if poses == "fixed" else moved.median() < 3


@pytest.mark.parametrize("name, warns", [("C5", 0), ("C4", 1)])
def test_a_wrong_symmetry_causes_a_warning(toy, name, warns):
    config = with_settings(SYMMETRIC, {"consensus": {"symmetry": name}})
    random, progress = torch.Generator().manual_seed(0), tqdm(total=0, disable=True)
    progress.total = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with_symmetry(toy.data, toy.volumes[0], config, random, progress)
    said = [str(one.message) for one in caught if "may have another symmetry" in str(one.message)]
    assert len(said) == warns and all(line.startswith("symmetry C4: the symmetric volume explains") for line in said)


def test_the_likelihood_of_a_copy_is_the_likelihood_at_its_pose(toy):
    few, poses, volumes = toy.data[:5], toy.poses[:5], torch.stack([toy.volumes[0], toy.volumes[0].flip(0)])
    found = log_likelihoods(few, volumes, poses, GROUP).unflatten(1, (5, 2))
    for k, g in enumerate(GROUP):
        for v in range(2):
            mixing = torch.eye(2)[v].expand(5, 2)
            expected = likelihood_at(few, volumes, mixing, Poses(poses.rotations @ g, poses.shifts_px))
            torch.testing.assert_close(found[:, k, v], expected, rtol=1e-3, atol=0.05)


def test_the_likeliest_copy_under_the_true_volume_is_the_true_pose(toy):
    given = scrambled(toy.poses)
    found = likeliest_copies(toy.data, Slicer(toy.volumes), given, GROUP)
    right = distance_deg(found.poses.rotations, toy.poses.rotations) < 0.1
    assert right.float().mean() > 0.99
    assert torch.equal(found.poses.shifts_px, toy.poses.shifts_px)


def test_the_nearest_copy_of_a_pose_is_the_pose(toy):
    found = nearest_copies(scrambled(toy.poses), toy.poses, GROUP)
    assert distance_deg(found.rotations, toy.poses.rotations).max() < 0.05


def test_an_expanded_table_has_all_equivalent_poses_of_each_row():
    rotations = random_rotations(3, torch.Generator().manual_seed(0)).double()
    table = pd.DataFrame({"rlnImageName": list("abc"), "rlnOriginXAngst": [1.0, 2.0, 3.0]}, index=[4, 7, 9])
    table[ANGLES] = to_euler(rotations).numpy()
    found = expanded(table, GROUP)
    assert found["rlnImageName"].tolist() == list("aaaaabbbbbccccc")
    assert found["rlnOriginXAngst"].tolist() == list(np.repeat([1.0, 2.0, 3.0], 5))
    poses = from_euler(torch.from_numpy(found[ANGLES].to_numpy())).unflatten(0, (3, 5))
    assert distance_deg(poses, equivalent(rotations, GROUP)).max() < 1e-3
    pd.testing.assert_frame_equal(expanded(table, GROUP[:1]), table.reset_index(drop=True))
