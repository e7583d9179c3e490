"""Interactive exploration of a finished run, without a browser: the effect of every control."""

import shutil
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from sklearn.decomposition import FastICA

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.io import star
from hetacumn.io.mrc import read_mrc, write_volumes
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import reopen
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.fourier import crop_volumes
from hetacumn.physics.fsc import fsc
from hetacumn.physics.rotations import random_rotations
from hetacumn.prediction.answer import Answer
from hetacumn.reconstruction.maps import Reconstruction
from hetacumn.run.explorer import POINTS, Explorer, default_run
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

REPO = Path(__file__).resolve().parents[1]
DATA = REPO / "data"
pytestmark = pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
N, BOX = 200, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder of a run whose predictions are the truth: two classes at z = ±1 on the first of two latent axes."""
    made, out = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("run")
    settings = {"structure": "adk", "states": ["open", "closed"], "particles": N, "box": 64, "pixel_A": 1.6, "snr": 2.0}
    truth = simulate_stack(Simulation.from_params(settings), made, 0, DATA, progress=False)
    stack = prepare_stack(made / "particles.star", out / "prepared", Preprocessing(box=BOX), progress=False)
    z = 0.1 * torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
    z[:, 0] += 2.0 * truth.classes - 1
    sure, ratios = torch.linspace(0.5, 1, N), torch.linspace(-5, 400, N)
    Predictions(stack.metadata.names, truth.rotations, truth.shifts_A, truth.classes, z, sure, ratios).write(out, stack.source)
    one, other = (crop_volumes(read_mrc(made / f"truth_class{k}.mrc")[0], BOX) for k in (1, 2))
    write_volumes(out / "volumes", torch.stack([(one + other) / 2, (other - one) / 2, 0 * one]), "basis_", stack.pixel_A)
    for stem in ("class_", "path_"):
        write_volumes(out / "volumes", torch.stack([one, other]), stem, stack.pixel_A)
    write_json(out / "run.json", {"prepared": str(stack.folder)})
    return out


@pytest.fixture
def explorer(folder) -> Explorer:
    run = Answer.open(folder)
    return Explorer(run, run.predictions.classes.numpy())


def test_a_selection_shows_its_images_and_its_volume(explorer):
    rows = (explorer.run.predictions.classes == 1).nonzero().squeeze(1).numpy()
    explorer.choose(rows)
    assert bytes(explorer.picture.value).startswith(b"\x89PNG")
    assert f"{len(rows)} particles: {len(rows)} of class 2" in explorer.message.value
    shown = torch.from_numpy(explorer.of_selection.surface.scalar_field)
    right, wrong = (fsc(shown[None], explorer.run.volume(torch.tensor([z, 0.0]))[None])[0, 2:8].mean() for z in (1.0, -1.0))
    assert right > 0.8 and right > wrong
    before = bytes(explorer.picture.value)
    explorer.choose(np.array([3]))
    assert bytes(explorer.picture.value) != before and explorer.message.value.startswith("1 particle:")


def test_the_slider_moves_along_the_path(explorer):
    before = explorer.along.surface.scalar_field.copy()
    explorer.slider.value = 1.0
    after = explorer.along.surface.scalar_field
    assert np.abs(after - before).max() > 0.1 * np.abs(before).max()
    np.testing.assert_allclose(after, explorer.run.volume(explorer.path[-1]).numpy(), rtol=1e-5, atol=1e-6)


def test_the_contour_is_a_fraction_of_the_largest_density_along_the_path(explorer):
    highest = max(float(explorer.run.volume(z).max()) for z in explorer.path)
    for fraction, position in ((0.5, 0.0), (0.1, 0.5)):
        explorer.contour.value, explorer.slider.value = fraction, position
        assert explorer.along.surface.level == pytest.approx(fraction * highest, rel=1e-5)
    explorer.choose(np.arange(50))
    assert explorer.of_selection.surface.level == pytest.approx(
        0.1 * explorer.of_selection.surface.scalar_field.max(), rel=1e-5
    )


@pytest.mark.parametrize("axes", ("principal axes", "independent motions"))
def test_the_path_is_drawn_among_the_particles(explorer, axes):
    """In any axes, a path between the latents of two particles passes through the points of these particles."""
    explorer.axes.value = axes
    for button, row in ((explorer.begin, 3), (explorer.end, 8)):
        explorer.choose([row])
        button.click()
    explorer.slider.value = 0.0
    particles, path, here = (np.stack([trace.x, trace.y], 1) for trace in explorer.latent_plot.figure.data)
    np.testing.assert_allclose(path[[0, -1]], particles[[3, 8]], atol=1e-4)
    np.testing.assert_allclose(here[0], particles[3], atol=1e-4)


def test_a_path_can_join_two_selections(explorer):
    latents = explorer.run.predictions.latents
    for button, label in ((explorer.begin, 0), (explorer.end, 1)):
        explorer.choose((explorer.run.predictions.classes == label).nonzero().squeeze(1).numpy())
        button.click()
    ends = torch.stack([latents[explorer.run.predictions.classes == label].mean(0) for label in (0, 1)])
    torch.testing.assert_close(explorer.ends, ends)
    torch.testing.assert_close(explorer.path, explorer.run.density_path(ends, POINTS))
    explorer.slider.value = 0.5 / (POINTS - 1)
    torch.testing.assert_close(explorer.latent(), explorer.path[:2].mean(0))


def test_a_motion_ends_among_its_extreme_particles_and_its_path_stays_near_particles(explorer):
    run = explorer.run
    latents, coordinate = run.predictions.latents, run.motions.coordinates[:, 0]
    ends = run.ends(1)
    for end, low in zip(ends, (True, False), strict=True):
        extreme = coordinate.argsort(descending=not low)[: N // 10]
        torch.testing.assert_close(end, latents[extreme].quantile(0.5, 0, interpolation="lower"))
    path, straight = run.density_path(ends, 9), run.path(1, 9)
    nearest = [torch.cdist(points, latents).min(1).values.median() for points in (path, straight)]
    assert nearest[0] < nearest[1]
    for motion, points, fault in (
        (3, 9, "motion 3: no such motion; expected 1 to 2"),
        (1, 1, "points is 1; expected at least 2"),
    ):
        with pytest.raises(HetacumnError, match=fault):
            run.path(motion, points)
    with pytest.raises(HetacumnError, match="motion 0: no such motion"):
        run.ends(0)
    with pytest.raises(HetacumnError, match="points is 1; expected at least 2"):
        run.density_path(ends, 1)


def test_colours_and_axes_change_the_plot(explorer):
    trace, colours = explorer.latent_plot.figure.data[0], []
    for colour in explorer.colour.options:
        explorer.colour.value = colour
        colours.append(str(trace.marker.color))
    quality = ("class probability", "log-likelihood ratio")
    assert explorer.colour.options == ("class", "defocus (µm)", "tilt of view (°)", *quality, "truth")
    assert len(set(colours)) == 5  # class and truth are the same here
    before = np.array(trace.x)
    explorer.axes.value = "independent motions"
    assert not np.allclose(before, trace.x) and explorer.latent_plot.figure.layout.xaxis.title.text == "motion 1 (sd)"


def outlined(explorer: Explorer, *outlines: dict) -> None:
    """Do what the browser does after the user has drawn outlines with the lasso or the box."""
    explorer.latent_plot.figure.plotly_relayout({"selections": list(outlines)})


def test_lasso_and_box_select_the_particles_inside(explorer):
    x, y = (np.asarray(axis) for axis in (explorer.latent_plot.figure.data[0].x, explorer.latent_plot.figure.data[0].y))
    box = {"type": "rect", "x0": 0.5, "x1": -0.9, "y0": -0.1, "y1": 0.2}
    inside = (x < 0.5) & (x > -0.9) & (y > -0.1) & (y < 0.2)
    outlined(explorer, box)
    assert explorer.rows.tolist() == np.flatnonzero(inside).tolist() and 0 < inside.sum() < N
    triangle = {"type": "path", "path": "M0,-1e1L10,-10L1.0e+1,20.5Z"}
    outlined(explorer, box, triangle)
    under = (y < -10 + 3.05 * x) & (x < 10) & (y > -10)
    assert explorer.rows.tolist() == np.flatnonzero(inside | under).tolist()
    assert explorer.latent_plot.figure.data[0].selectedpoints == tuple(explorer.rows.tolist())


def test_a_selection_keeps_its_particles_when_the_axes_change(explorer):
    outlined(explorer, {"type": "rect", "x0": 0, "x1": 9, "y0": 0, "y1": 9})
    rows = explorer.rows.tolist()
    explorer.axes.value = "independent motions"
    assert explorer.rows.tolist() == rows == list(explorer.latent_plot.figure.data[0].selectedpoints)
    assert not explorer.latent_plot.figure.layout.to_plotly_json()["selections"]  # the outline was drawn in the earlier axes


def test_no_selection_shows_no_volume(explorer):
    explorer.choose([1, 5])
    outlined(explorer, {"type": "rect", "x0": 50, "x1": 51, "y0": 50, "y1": 51})
    assert not len(explorer.rows) and not explorer.of_selection.surface.visible
    assert explorer.latent_plot.figure.data[0].selectedpoints is None and explorer.picture.layout.display == "none"
    explorer.choose([1])
    assert explorer.of_selection.surface.visible


def test_maps_at_the_full_box_replace_the_volumes_of_their_path(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    explorer = Explorer(Answer.open(tmp_path / "run", folder / "prepared"))
    explorer.detail.value = "full box"
    assert "no full-box maps yet" in explorer.message.value and explorer.along.surface.scalar_field.shape == (BOX,) * 3
    with pytest.warns(UserWarning, match="maps along a motion need at least"):
        explorer.make_path.click()
    again = Explorer(Answer.open(tmp_path / "run", folder / "prepared"))
    again.detail.value = "full box"
    for one in (explorer, again):
        maps, _ = one.path_maps.read()
        one.slider.value = 1.0
        np.testing.assert_allclose(one.along.surface.scalar_field, maps[-1].numpy())
        assert maps.shape == (POINTS, 64, 64, 64) and one.latent().equal(one.path[-1])
        assert one.along.surface.level == pytest.approx(0.25 * float(maps.max()), rel=1e-5)
        assert str(tmp_path / "run/motion_1/morph.cxc") in one.message.value
    explorer.choose(np.arange(60))
    explorer.end.click()
    assert explorer.path_maps is None and explorer.path_folder().name == "path_selection"
    assert explorer.along.surface.scalar_field.shape == (BOX,) * 3


def test_the_map_of_a_selection_is_shown_at_the_full_box(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    explorer = Explorer(Answer.open(tmp_path / "run", folder / "prepared"))
    explorer.make_selection.click()
    assert "rows are empty; expected at least one row" in explorer.message.value
    explorer.choose((explorer.run.predictions.classes == 0).nonzero().squeeze(1).numpy())
    explorer.make_selection.click()
    found = Reconstruction.open(tmp_path / "run/maps_selection")
    assert f"{found.results[0].resolution_A:.1f} Å" in explorer.message.value
    masked = found.maps["selection"] * found.masks["selection"]
    np.testing.assert_allclose(explorer.of_selection.surface.scalar_field, masked.numpy())


def test_the_legend_names_the_classes_and_counts_their_particles(explorer):
    for k, count in enumerate(explorer.run.predictions.classes.bincount().tolist()):
        assert f"class&nbsp;{k + 1}&nbsp;({count})" in explorer.legend.value
    explorer.colour.value = "tilt of view (°)"
    assert not explorer.legend.value


def test_a_selection_is_written_for_other_programs(explorer, tmp_path):
    explorer.stem.value = str(tmp_path / "some")
    explorer.write.click()
    assert "no file is written" in explorer.message.value and not list(tmp_path.iterdir())
    explorer.choose(np.array([7, 2, 9]))
    explorer.write.click()
    table = star.read_table(tmp_path / "some.star")
    assert table.particles["rlnImageName"].tolist() == [explorer.run.predictions.names[i] for i in (7, 2, 9)]
    assert (tmp_path / "some_rows.txt").read_text().split() == ["8", "3", "10"] and not (tmp_path / "some.cs").exists()
    with mrcfile.open(tmp_path / "some.mrc") as mrc:
        assert mrc.data.shape == (BOX,) * 3


@pytest.mark.parametrize("rows", ([], [-1], [10_000]))
def test_absent_rows_are_refused_and_nothing_is_written(explorer, tmp_path, rows):
    with pytest.raises(HetacumnError, match="rows are .*; expected at least one row, each from 0 to"):
        explorer.run.export(np.array(rows, dtype=np.int64), tmp_path / "some")
    with pytest.raises(HetacumnError, match="rows are .*; expected at least one row, each from 0 to"):
        explorer.run.reconstruct(np.array(rows, dtype=np.int64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ("{", "[]"))
def test_a_damaged_prepared_json_is_reported_in_one_line(tmp_path, text):
    (tmp_path / "prepared.json").write_text(text)
    with pytest.raises(HetacumnError, match="prepared.json: .*expected the record of prepared particles") as told:
        reopen(tmp_path)
    assert "\n" not in str(told.value)


def test_an_export_does_not_overwrite_the_tables_of_a_prediction(explorer):
    run = explorer.run
    for table in (run.folder / "predictions.star", run.stack.star, run.stack.source):
        before = table.read_bytes()
        with pytest.raises(HetacumnError, match="would overwrite .*; expected another name"):
            run.export(np.array([0]), table.with_suffix(""))
        assert table.read_bytes() == before


def test_the_default_run_is_that_of_the_pipeline_or_else_of_the_lesson(tmp_path, monkeypatch):
    monkeypatch.setattr("hetacumn.run.explorer.project_root", lambda: tmp_path)
    with pytest.raises(HetacumnError, match="no finished run in .*expected one: run notebooks/lessons/1_tour.ipynb"):
        default_run()
    for name in ("results/tour/model", "results/adk/hetacumn-refined"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "predictions.star").touch()
        assert default_run() == tmp_path / name


def test_a_run_opens_from_anywhere(folder, tmp_path, monkeypatch):
    """The noted path of the images starts at the working directory or a folder around the run; else they are inside the run."""
    moved = tmp_path / "project/results/run"
    shutil.copytree(folder, moved)
    monkeypatch.chdir(tmp_path)
    for noted in ("results/run/prepared", "lost/prepared"):
        write_json(moved / "run.json", {"prepared": noted})
        assert Answer.open(moved).stack.folder.resolve() == moved / "prepared"


def test_motions_are_fitted_at_first_use_and_not_when_a_prediction_opens(folder, monkeypatch):
    fitted, fit = [], FastICA.fit
    monkeypatch.setattr(FastICA, "fit", lambda *given: fitted.append(1) or fit(*given))
    answer = Answer.open(folder)
    answer.volume(torch.zeros(2))
    assert not fitted and answer.motions is answer.motions and len(fitted) == 1


def test_a_reconstruction_in_parts_equals_the_whole(explorer, monkeypatch):
    whole = explorer.run.reconstruct(np.arange(N))
    monkeypatch.setattr("hetacumn.prediction.answer.READ_AT_ONCE", 37)
    torch.testing.assert_close(explorer.run.reconstruct(np.arange(N)), whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


def test_half_maps_agree_at_correct_poses_and_not_at_random_ones(explorer):
    rows, run = np.arange(0, N, 2), explorer.run
    anywhere = random_rotations(N, torch.Generator().manual_seed(0))
    astray = replace(run, predictions=replace(run.predictions, rotations=anywhere))
    right, wrong = (fsc(*(half[None] for half in one.half_maps(rows)))[0] for one in (run, astray))
    assert (right[1:6] > 0.8).all() and wrong[3:6].mean() < right[3:6].mean() - 0.25


def test_images_of_another_run_are_refused(folder, tmp_path):
    source = folder / "prepared"
    few = star.read_table(source / "particles.star")
    star.write_table(tmp_path / "few.star", few.particles.iloc[:50].assign(
        rlnImageName=[f"{i + 1}@{source / 'particles.mrcs'}" for i in range(50)]), few.optics)  # fmt: skip
    prepare_stack(tmp_path / "few.star", tmp_path / "prepared", Preprocessing(contrast="white"), progress=False)
    with pytest.raises(HetacumnError, match="holds other particles than .*predictions.star"):
        Answer.open(folder, tmp_path / "prepared")
    with pytest.raises(HetacumnError, match="prepared.json: no such file"):
        Answer.open(folder, tmp_path / "none")
