"""Scores of each true state, and of mixtures, for predictions that are right, partly wrong, or rotated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hetacumn.common.files import write_json
from hetacumn.evaluation.bound import Bound
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.evaluation.scores import score
from hetacumn.evaluation.states import majority_accuracy, species_rotation_errors_deg, tabulate_states
from hetacumn.io.mrc import write_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.rotations import random_rotations
from hetacumn.physics.symmetry import cyclic_rotations
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.structures import load_states
from hetacumn.simulation.truth import Truth

DATA = Path(__file__).resolve().parents[1] / "data"
needs_data = pytest.mark.skipif(not (DATA / "complexes.npz").exists(), reason="data/ is absent: run `dvc pull`")
MIXTURE = {"structure": "complexes", "species": ["1EXB", "1GP2"]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> SimulatedDataset:
    """Return a dataset of two molecules, with 10 % junk."""
    folder = tmp_path_factory.mktemp("results")
    settings = Simulation.from_params(
        {**MIXTURE, "particles": 400, "box": 48, "pixel_A": 4.5, "snr": 0.5, "realism": {"junk_share": 0.1}}
    )
    simulate_stack(settings, folder / "particles", 0, DATA, progress=False)
    known = SimulatedDataset.read(folder, "toy")
    prepare_stack(known.star, folder / "prepared", Preprocessing(box=32), progress=False)
    return known


def right_answers(dataset: SimulatedDataset) -> Predictions:
    names = [f"{i + 1:06d}@particles.mrcs" for i in range(len(dataset.truth.classes))]
    truth = dataset.truth
    return Predictions(names, truth.rotations, truth.shifts_A, truth.classes, torch.zeros(len(names), 1))


@needs_data
def test_each_state_has_its_own_scores(dataset):
    found = right_answers(dataset)
    first = (dataset.truth.classes == 0) & (dataset.truth.junk == 0)
    wrong = first.nonzero().squeeze(1)[::2]
    rotations = found.rotations.clone()
    rotations[wrong] = random_rotations(len(wrong), torch.Generator().manual_seed(0))
    found = replace(found, rotations=rotations)
    matched, truth = dataset.match(found)
    own = score(matched, dataset.volumes, truth, dataset.volumes, dataset.voxel_A, np.zeros(len(matched), bool))
    bound = Bound(1.0, 1.0, 1.0, (0.9, 0.8), (0.7, 0.6))
    table = tabulate_states(dataset, found, own, bound)
    assert table["particles"].sum() == (dataset.truth.junk == 0).sum() and table["particles"][0] == first.sum()
    assert table["accuracy"].tolist() == [1, 1] and table["bound"].tolist() == [0.9, 0.8]
    assert table["poses_within_10deg"].tolist() == [pytest.approx(0.5, abs=0.02), 1]
    assert table["bound_within_10deg"].tolist() == [0.7, 0.6]
    assert (table["resolution_A"] == 2 * dataset.voxel_A).all()
    assert table["resolution_true_poses_A"].between(2 * 6.75, 20).all()  # the prepared pixels are of 6.75 Å


def test_classes_vote_for_their_species():
    true = np.repeat([0, 1, 2], [50, 30, 20])
    assert majority_accuracy(true + 5, true) == 1
    assert majority_accuracy(np.arange(100) % 2 + 2 * true, true) == 1  # two classes of each species
    assert majority_accuracy(np.zeros(100, int), true) == 0.5
    assert majority_accuracy(np.where(true == 2, 1, true), true) == 0.8


@needs_data
def test_the_poses_of_each_species_are_compared_in_its_own_frame_up_to_its_symmetry(dataset):
    species = load_states(MIXTURE, DATA)
    symmetry, generator = cyclic_rotations(species[0].positions_A), torch.Generator().manual_seed(0)
    assert [len(symmetry), len(cyclic_rotations(species[1].positions_A))] == [4, 1]
    found, truth = dataset.match(right_answers(dataset))
    frames = random_rotations(2, generator)
    copies = torch.where((truth.classes == 0)[:, None, None], symmetry[torch.arange(len(found)) % 4], torch.eye(3))
    moved = replace(found, rotations=found.rotations @ copies @ frames[truth.classes])
    assert species_rotation_errors_deg(moved, truth, species).max() < 0.1
    lost = replace(moved, rotations=random_rotations(len(found), generator))
    assert species_rotation_errors_deg(lost, truth, species).min() > 30


def test_a_dataset_knows_the_envelope_of_its_images(tmp_path):
    write_json(tmp_path / "particles/config.json", {"dataset": "toy", "simulation": {"realism": {"envelope_A2": 80}}})
    empty = dict(rotations=torch.zeros(0, 3, 3), shifts_A=torch.zeros(0, 2), classes=torch.zeros(0).long(),
                 coordinate=torch.zeros(0), junk=torch.zeros(0).long(), clean=torch.zeros(0, 8, 8))  # fmt: skip
    Truth(**empty, snr=1.0, noise_std=1.0).write(tmp_path / "particles/truth.npz")
    write_volumes(tmp_path / "particles", torch.zeros(1, 8, 8, 8), "truth_class", 2.0)
    assert SimulatedDataset.read(tmp_path, "toy").envelope_A2 == 80
