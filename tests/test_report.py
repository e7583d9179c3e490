"""The report of a run whose predictions are the truth: half maps, paths, files, and scores against the truth."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hetacumn.common.files import write_json
from hetacumn.evaluation.report import (
    Report,
    ReportPaths,
    compare_with_truth,
    describe_resolutions,
    make_report,
    write_report,
    write_truth_scores,
)
from hetacumn.io.mrc import read_mrc, write_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.fourier import crop_volumes
from hetacumn.prediction.answer import Answer
from hetacumn.prediction.trust import ClassTrust
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

REPO = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
N, BOX = 200, 24


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """Return the folder of simulated particles of a molecule that closes continuously, divided into two classes."""
    folder = tmp_path_factory.mktemp("particles")
    molecule = {"structure": "adk", "continuous": True, "motion_classes": 2}
    settings = Simulation.from_params({**molecule, "particles": N, "box": 64, "pixel_A": 1.6, "snr": 2.0})
    simulate_stack(settings, folder, 0, REPO / "data", progress=False)
    write_json(folder / "config.json", {"simulation": asdict(settings)})
    return folder


@pytest.fixture(scope="module")
def report(truth, tmp_path_factory) -> Report:
    """Return the report of a run that predicts the truth; its first latent is the negative coordinate of the motion."""
    out = tmp_path_factory.mktemp("run")
    known = Truth.read(truth / "truth.npz")
    stack = prepare_stack(truth / "particles.star", out / "prepared", Preprocessing(box=BOX), progress=False)
    other_axis = 0.01 * torch.randn(N, 1, generator=torch.Generator().manual_seed(0))
    latents = torch.cat([-known.coordinate.reshape(N, 1), other_axis], 1)
    Predictions(stack.metadata.names, known.rotations, known.shifts_A, known.classes, latents).write(out, stack.source)
    one, other = (crop_volumes(read_mrc(truth / f"truth_class{k}.mrc")[0], BOX) for k in (1, 2))
    write_volumes(out / "volumes", torch.stack([(one + other) / 2, one - other, 0 * one]), "basis_", stack.pixel_A)
    for stem in ("class_", "path_"):
        write_volumes(out / "volumes", torch.stack([one, other]), stem, stack.pixel_A)
    facts = {"train_seconds": 3.0, "predict_particles_per_second": 50, "peak_memory_mb": 7}
    write_json(out / "run.json", {"prepared": str(stack.folder), **facts})
    return make_report(Answer.open(out))


def test_half_maps_of_all_particles_and_of_each_class_agree(report):
    assert list(report.half_maps) == list(report.curves) == ["all", "class 1", "class 2"]
    assert all(curve[1] > 0.9 for curve in report.curves.values())
    assert report.resolutions_A()["all"] <= report.resolutions_A()["class 1"] + 1


def test_a_resolution_at_nyquist_asks_for_a_larger_box(report):
    words, values = describe_resolutions(report), report.resolutions_A()
    for group, value in values.items():
        assert words[group].startswith(f"{value:.1f} Å")
        assert ("larger stack.box" in words[group]) == (value <= 2 * report.run.voxel_A)


def test_rendered_particles_correlate_with_the_images(report):
    drawn, seen = report.draw_particles(4)
    assert drawn.shape == seen.shape == (4, BOX, BOX)
    for one, other in zip(drawn, seen, strict=True):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.4


def test_a_report_replaces_the_files_of_an_earlier_one(report):
    folder = report.run.folder
    for stale in ("halves/class_9_half1.mrc", "paths/motion_9_01.mrc", "motion_9.cxc", "motion_9.gif"):
        (folder / stale).parent.mkdir(exist_ok=True)
        (folder / stale).write_text("")
    write_report(report)
    groups = {f"{group}{half}.mrc" for group in ("all", "class_1", "class_2") for half in ("", "_half1", "_half2")}
    assert {path.name for path in folder.glob("halves/*")} == groups
    motions = range(1, len(report.paths) + 1)
    assert {path.name for path in folder.glob("motion_*")} == {f"motion_{i}.cxc" for i in motions}
    assert {path.name for path in folder.glob("paths/*")} == {f"motion_{i}_{k:02d}.mrc" for i in motions for k in range(1, 11)}
    mean = (read_mrc(folder / "halves/all_half1.mrc")[0] + read_mrc(folder / "halves/all_half2.mrc")[0]) / 2
    torch.testing.assert_close(read_mrc(folder / "halves/all.mrc")[0], mean)
    assert pd.read_csv(folder / "fsc.csv")["class 2"].tolist() == pytest.approx(report.curves["class 2"].tolist(), rel=1e-5)


def test_a_report_shows_maps_at_the_full_box_where_they_exist(report, tmp_path):
    assert report.maps is None and report.full_box_maps()[0] == {} and not len(report.full_box_table())
    shutil.copytree(report.run.folder, tmp_path / "run")
    run = replace(
        Answer.open(tmp_path / "run", report.run.stack.folder), trust=(ClassTrust(90, 0.9, 8.0), ClassTrust(110, 0.1, 8.0))
    )
    maps = run.maps(refine=False, progress=False)
    with pytest.warns(UserWarning, match="maps along a motion need at least"):
        path_maps = run.path_maps(run.density_path(run.ends(1), 3), run.folder / "motion_1", progress=False)
    found = make_report(run)
    names = ["class 1", "class 2\nposes not determined"]
    shown, voxel_A = found.full_box_maps()
    assert list(shown) == list(found.class_volumes()) == names and voxel_A == pytest.approx(maps.voxel_A, rel=1e-5)
    np.testing.assert_allclose(shown[names[1]], (maps.maps["class_2"] * maps.masks["class_2"]).numpy())
    table = found.full_box_table()
    assert table["resolution (Å)"].tolist() == pytest.approx([one.resolution_A for one in maps.results])
    assert table["warning"].tolist() == ["", "poses not determined"] and table.index.tolist() == ["class 1", "class 2"]
    volumes, size_A = found.movie_volumes(0)
    assert volumes.shape == (3, 64, 64, 64) and size_A == pytest.approx(1.6) and found.path_maps[1] is None
    assert found.paths[0].shape[0] == len(path_maps.table) == 3 and found.movie_volumes(1)[0].shape == (10, BOX, BOX, BOX)
    write_report(found)
    for motion, first in ((1, "motion_1/volumes/point_01.mrc"), (2, "paths/motion_2_01.mrc")):
        opened = [line.split()[1] for line in (run.folder / f"motion_{motion}.cxc").read_text().splitlines() if "open " in line]
        assert opened[0] == first and all((run.folder / name).is_file() for name in opened)


def test_predictions_that_are_the_truth_score_best(report, truth, tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    comparison = compare_with_truth(report, truth, report.run.folder)
    assert comparison.names == ("adk",) and comparison.correlations[0] > 0.97
    assert comparison.found.shape == comparison.true.shape == (N, 1)
    scores = comparison.scores
    assert scores["spearman_adk"] == comparison.correlations[0]
    assert scores["rotation_error_deg"] < 0.1 < scores["rotation_bound_deg"] < 10
    assert scores["seconds"] == 3.0 + N / 50 and scores["peak_memory_mb"] == 7
    write_truth_scores(tmp_path / "a-twin", comparison)
    written = pd.read_csv(tmp_path / "a_twin.csv").set_index("quantity")["value"]
    assert written.to_dict() == pytest.approx(scores, rel=1e-3)


def test_folders_of_a_report():
    folder, default = Path("results/real-twin"), ReportPaths.of_dataset("real-twin")
    assert default == ReportPaths(folder / "refined", folder / "hetacumn", Path("figures/real-twin"))
    own = ReportPaths.of_dataset("empiar-10180", "mine", "mine/figures")
    assert (own.predictions, own.out) == (Path("mine"), Path("mine/figures"))
