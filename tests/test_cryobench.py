"""benchmark/cryobench.py: the sets follow the protocol of CryoBench, one row per run, no run twice."""

from pathlib import Path

import cryobench
import numpy as np
import pandas as pd
import pytest
import torch
from cryobench_sets import BOX, PIXEL_A, assembly_states, read_set
from stand_ins import record_runs

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.io.mrc import read_volumes, write_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.physics.fourier import crop_volumes
from hetacumn.simulation.structures import load_states
from hetacumn.simulation.truth import Truth

ROOT = Path(__file__).resolve().parents[1]
needs_data = pytest.mark.skipif(not (ROOT / "data/igg.npz").exists(), reason="data/ is absent: run `dvc pull`")


def answer_truth(stack: PreparedStack, out: Path) -> None:
    """Stand in for a prediction of a set of two states: write the truth, with z = 0 and 1."""
    particles = stack.source.parent
    known = Truth.read(particles / "truth.npz")
    z = known.classes[:, None].float()
    Predictions(stack.metadata.names, known.rotations, known.shifts_A, known.classes, z).write(out, stack.source)
    volumes, voxel_A = read_volumes(particles, "truth_class")
    first, second = crop_volumes(volumes, stack.box)
    write_volumes(out / "volumes", torch.stack([first, second - first]), "basis_", voxel_A * BOX / stack.box)
    write_json(out / "run.json", {"train_seconds": 7.0, "device": "a toy", "predict_particles_per_second": 10})


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """Replace training and prediction by :func:`answer_truth`; return a line for each of them that ran."""
    return record_runs(
        monkeypatch,
        [cryobench],
        answer_truth,
        lambda stack, job: f"train {job.method} at {stack.box} px, {job.config.classes} classes, poses {job.initial.poses}",
        lambda job: f"predict {job.request.grade} by {Path(job.model).name} in {Path(job.out).name}",
    )


@needs_data
def test_each_method_and_kind_of_poses_has_a_row_and_no_run_is_repeated(runs, tmp_path):
    small = ["--sets", "mixture-2", "--images", "260", "--box", "48", "--points", "3",
             "--out", str(tmp_path / "runs"), "--table", str(tmp_path / "table.csv"), "--figures", str(tmp_path)]  # fmt: skip
    cryobench.main([*small, "--methods", "bound", "bound-kernel", "hetacumn-refined", "--poses", "fixed", "search"])
    table = pd.read_csv(tmp_path / "table.csv").set_index(["method", "poses"])
    assert table.index.tolist() == [
        ("bound", "exact"), ("bound-kernel", "exact"), ("hetacumn-refined", "fixed"), ("hetacumn-refined", "search")
    ]  # fmt: skip
    assert sorted(table.reset_index().columns) == sorted(cryobench.COLUMNS)
    assert (table[["accuracy", "ari", "ami"]] == 1).all(axis=None) and table["rotation_median_deg"].max() < 0.1
    assert table["auc_fsc"].between(0.05, 23 / BOX).all()
    assert table.loc[("bound-kernel", "exact"), "auc_fsc"] == pytest.approx(table["auc_fsc"].iloc[2], abs=0.02)
    assert table["imbalance_true_to_z"].to_numpy() == pytest.approx(table["imbalance_z_to_true"].to_numpy())
    assert table["imbalance_pose_to_z"].between(0.9, 1.1).all()
    assert table["seconds"].tolist()[2:] == [33, 33]
    assert (tmp_path / "cryobench-mixture-2.png").stat().st_size < 300_000
    assert runs == [
        "train em at 32 px, 2 classes, poses fixed",
        "train hetacumn at 32 px, 2 classes, poses fixed",
        "predict refined by hetacumn-32-fixed in hetacumn-32-fixed-refined",
        "train em at 32 px, 2 classes, poses search",
        "train hetacumn at 32 px, 2 classes, poses search",
        "predict refined by hetacumn-32-search in hetacumn-32-search-refined",
    ]
    cryobench.main([*small, "--methods", "bound", "hetacumn-refined", "--poses", "fixed"])
    assert len(runs) == 6


def test_the_metrics_read_images_of_all_conformations():
    classes = torch.tensor([0] * 50 + [1] * 50 + [2] * 900)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    rows = cryobench.spread_rows(classes, 100)
    assert len(set(rows)) == 100 and np.bincount(classes[rows]).tolist() == [5, 5, 90]
    assert cryobench.spread_rows(classes[:4], 100) == classes[:4].argsort(stable=True).tolist()
    assert cryobench.spread_labels(torch.arange(100), 100) == list(range(100))
    assert cryobench.spread_labels(torch.arange(100), 50) == list(range(0, 100, 2))


def test_the_sets_have_the_sizes_of_the_protocol():
    one, linkers, assembly, mixture = (read_set(name) for name in ("igg-1d", "igg-rl", "assembly", "mixture-4"))
    angles = one.molecule["fab_deg"]
    assert len(angles) == 100 == linkers.molecule["linkers"] and np.diff([*angles, 360]) == pytest.approx([3.6] * 100)
    assert len(assembly.molecule["left_out"]) == 16 == assembly.classes and assembly.weights is not None
    assert sum(assembly.weights) == pytest.approx(1) and assembly.weights[0] == pytest.approx(16 * assembly.weights[-1])
    assert mixture.molecule["species"] == 4 == mixture.classes
    settings = mixture.simulation(100)
    assert settings.box * settings.pixel_A == 256 * 1.5 and settings.shift_px / settings.box == pytest.approx(20 / 256)
    with pytest.raises(HetacumnError, match="unknown set 'spike'; expected igg-1d, igg-rl, assembly or mixture-<N>"):
        read_set("spike")


@needs_data
def test_the_states_differ_and_fit_into_the_box():
    states = load_states({"structure": "ribosome", "left_out": assembly_states()}, ROOT / "data")
    assert len({len(state.weights) for state in states}) == 16
    conformations = load_states(read_set("igg-rl").molecule, ROOT / "data")
    spread_A = torch.pdist(torch.stack([state.positions_A.flatten() for state in conformations])) / 10355**0.5
    assert len(conformations) == 100 and spread_A.min() > 0.5
    for state in (*states, *conformations):
        assert (state.positions_A.norm(dim=1) + 3 * state.widths_A).max() < (BOX // 2 - 1) * PIXEL_A
