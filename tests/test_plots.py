"""Figures show the given numbers, are small and reproducible to the byte, and do not change the settings of matplotlib."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image, ImageSequence

from hetacumn import plots
from hetacumn.physics.fsc import resolution_A
from hetacumn.plots.images import scale_bar_A

DATASETS = ["adk", "ribosome"]
METHODS = list(plots.METHODS)


@pytest.fixture(scope="module")
def made(blobs):
    """Return invented arguments of every figure function, by the name of the function."""
    random = np.random.default_rng(0)
    classes = {d: random.integers(0, 3, 200) for d in DATASETS}
    clean = [np.stack([blobs.projection(32).numpy()] * 4)] * 2
    truth = np.stack([blobs.volume(24).numpy(), blobs.moved(mirrored=True).volume(24).numpy()])
    accuracies = pd.DataFrame(
        [
            {
                "dataset": d,
                "method": m,
                "accuracy": 0.9,
                "accuracy_unseen": 0.89,
                "bound_marginal": 0.95,
                "bound_known_pose": 0.99,
            }
            for d in DATASETS
            for m in METHODS
        ]
    )
    runs = pd.DataFrame(
        [
            {
                "dataset": d,
                "method": m,
                "seed": s,
                "snr": snr,
                "accuracy": 0.9 - 0.01 * s,
                "bound_marginal": 0.95,
                "train_seconds": 100.0 + 50 * i,
                "finished": i % 2 == 0,
                "rotation_error_deg": 2.0 + s,
            }
            for d in DATASETS
            for i, m in enumerate(METHODS)
            for s in range(2)
            for snr in (0.01, 0.1)
        ]
    )
    fsc = pd.DataFrame(
        [
            {"dataset": d, "method": m, "class": k, "frequency_per_A": s / 200, "fsc": np.exp(-s / 9)}
            for d in DATASETS
            for m in METHODS
            for k in (1, 2)
            for s in range(16)
        ]
    )
    history = pd.DataFrame({"batch": range(50), "loss": random.random(50)})
    return {
        "particle_gallery": (clean, [c + random.normal(size=c.shape) for c in clean], DATASETS, 6, ("a", "b"), [1.6, 3.2]),
        "confusion_matrix": ({d: {m: random.integers(1, 99, (3, 3)) for m in METHODS} for d in DATASETS},),
        "accuracy_bars": (accuracies,),
        "accuracy_lines": (runs, ("snr", "SNR")),
        "accuracy_against_time": (runs,),
        "state_scores": (
            pd.DataFrame(
                [
                    {
                        "dataset": d,
                        "seed": s,
                        "method": m,
                        "state": k,
                        "accuracy": 0.8 + 0.05 * s,
                        "bound": 0.95,
                        "poses_within_10deg": 0.7,
                        "bound_within_10deg": 0.9,
                    }
                    for d in DATASETS
                    for s in range(2)
                    for m in ("em", "hetacumn")
                    for k in (1, 2, 3)
                ]
            ),
        ),
        "mixture_scores": (
            pd.DataFrame(
                [
                    {"species": n, "seed": s, "method": "em", "accuracy": 1 - n / 100 - s / 20, "rotation_median_deg": 2.0 + s}
                    for n in (8, 16, 45)
                    for s in range(2)
                ]
            ),
        ),
        "state_numbers": (pd.DataFrame({"stack": ["a", "a", "b"], "states": [2, 2, 4], "found": [2, 3, 4]}),),
        "settled_bars": ([0.97, 0.08, None], 0.5),
        "settled_shares": (
            pd.DataFrame({"stack": ["a", "a", "b"], "settled": [0.9, 0.1, np.nan], "true_share": [0.95, 0.05, 0.4]}),
            0.5,
        ),
        "busy_bars": (
            pd.DataFrame(
                {"dataset": "a", "phase": ["x", "y", "z"], "seconds": [9.0, 4.0, np.nan], "busy_share": [0.3, np.nan, 0.5]}
            ),
        ),
        "stage_bars": (
            pd.DataFrame(
                [
                    {"dataset": d, "device": device, "start": 9.0 * i, "training": 4.0}
                    for d in DATASETS
                    for i, device in enumerate(["a GPU", "a CPU"], 1)
                    if (d, i) != (DATASETS[0], 2)
                ]
            ),
            {"start": "the start", "training": "training"},
        ),
        "ablation_bars": (
            runs,
            {"hetacumn": "full", "hetacumn-bare": "bare"},
            {"accuracy": "accuracy", "rotation_error_deg": "rotation error (°)"},
        ),
        "latent_scatter": ({d: random.normal(size=(200, 4)) for d in DATASETS}, classes),
        "log_ratio_histogram": ({"class 1": random.normal(300, 60, 200), "class 2": random.normal(0, 5, 20)},),
        "pose_changes": (random.lognormal(1, 1, 300), random.lognormal(-1, 1, 300)),
        "pose_error_histogram": (
            {d: {m: random.lognormal(1, 1, 300) for m in METHODS[-2:]} for d in DATASETS},
            dict.fromkeys(DATASETS, 1.0),
        ),
        "volume_surfaces": (truth, {m: truth for m in METHODS[-2:]}, None, "truth", 3.2),
        "fsc_curves": (fsc,),
        "training_curves": (
            {d: {"hetacumn": history} for d in DATASETS},
            {"loss": "loss", "none has": "it"},
            ("batch", "batches"),
        ),
        "latent_density": (random.normal(size=(500, 4)), np.linspace(-1, 1, 6)[:, None] * np.ones(4)),
        "energy_landscape": (random.uniform(0, 5, (20, 20)), random.uniform(0, 1, (20, 20)), np.ones((2, 20)).cumsum(1)),
        "view_distribution": (random.uniform(-180, 180, 500), np.rad2deg(np.arccos(random.uniform(-1, 1, 500)))),
        "noise_spectrum": (1 + np.exp(-np.arange(16) / 5), 3.2),
        "motion_scatter": (random.normal(size=(500, 2)), random.uniform(size=(500, 2)), ["one", "two"], [0.9, 0.1]),
        "pictures": (np.stack(clean[0]), list("abcd")),
        "curves": (np.arange(1, 9), {"one": np.arange(8), "two": np.arange(8) ** 2}, "x", "y", True),
        "map_fsc": ({"all": np.exp(-np.arange(16) / 9), "class 1": np.exp(-np.arange(16) / 5)}, 3.2),
        "defocus_histogram": (random.normal(15_000, 3000, 500), random.normal(15_000, 3000, 500)),
        "path_surfaces": (np.concatenate([truth, truth[:1]]), 5, 3.2),
        "heterogeneity_scores": (
            {name: random.uniform(0, 1, (20, 32)) for name in ("bound", "hetacumn")},
            {name: random.uniform(0, 0.2, 20) for name in ("bound", "hetacumn")},
            {"hetacumn": random.normal(size=(200, 4)), "one axis": random.normal(size=(200, 1))},
            random.uniform(size=200),
            384.0,
        ),
        "overview": (
            plots.Overview("toy", clean[0], 1.6, random.normal(size=(200, 4)), classes["adk"] % 2, truth, truth, 3.2),
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "particle_gallery",
        "confusion_matrix",
        "accuracy_bars",
        "accuracy_lines",
        "accuracy_against_time",
        "state_scores",
        "mixture_scores",
        "ablation_bars",
        "settled_bars",
        "settled_shares",
        "state_numbers",
        "stage_bars",
        "busy_bars",
        "latent_scatter",
        "pose_error_histogram",
        "volume_surfaces",
        "fsc_curves",
        "training_curves",
        "latent_density",
        "energy_landscape",
        "view_distribution",
        "map_fsc",
        "defocus_histogram",
        "path_surfaces",
        "noise_spectrum",
        "motion_scatter",
        "pictures",
        "curves",
        "log_ratio_histogram",
        "heterogeneity_scores",
        "overview",
    ],
)
def test_a_figure_is_reproducible_to_the_byte_and_small_enough_for_git(name, made, tmp_path):
    plots.style()
    for copy in ("a.png", "b.png"):
        plots.save(getattr(plots, name)(*made[name]), tmp_path / copy)
    first, second = ((tmp_path / copy).read_bytes() for copy in ("a.png", "b.png"))
    assert first == second
    assert 2_000 < len(first) < 300_000
    assert b"Software" not in first


def test_a_movie_plays_the_volumes_forwards_and_backwards(made, tmp_path):
    volumes = made["path_surfaces"][0][:1] * np.linspace(0.4, 1, 4)[:, None, None, None]
    plots.save_movie(plots.path_movie(volumes, 3.2), tmp_path / "movie.gif")
    movie = Image.open(tmp_path / "movie.gif")
    frames = [np.asarray(frame.convert("L"), dtype=float) for frame in ImageSequence.Iterator(movie)]
    assert len(frames) == 6 and movie.info["loop"] == 0
    for there, back in ((1, 5), (2, 4)):
        assert (frames[there] == frames[back]).all() and (frames[there] != frames[0]).any()


def settings():
    """Return the settings of matplotlib except the backend, which matplotlib chooses when the setting is read."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_the_import_of_plots_changes_no_setting_of_matplotlib_and_opens_no_figure():
    code = (
        "import matplotlib; settings = lambda: {n: matplotlib.rcParams[n] for n in matplotlib.rcParams if n != 'backend'}; "
        "before = settings(); import hetacumn.plots; from matplotlib import pyplot; "
        "assert settings() == before; assert not pyplot.get_fignums()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    [
        "confusion_matrix",
        "accuracy_bars",
        "ablation_bars",
        "pose_error_histogram",
        "log_ratio_histogram",
        "defocus_histogram",
    ],
)
def test_a_figure_by_seaborn_changes_no_setting_of_matplotlib_and_opens_no_figure(name, made, tmp_path):
    plots.style()
    before = settings()
    plots.save(getattr(plots, name)(*made[name]), tmp_path / "figure.png")
    assert settings() == before
    assert not pyplot.get_fignums()


def test_a_wrong_shape_is_refused(made):
    z, path = made["latent_density"]
    wrong = {
        "latent_density": (z, path[:, :3]),
        "view_distribution": (np.zeros(5), np.zeros(6)),
        "defocus_histogram": (np.ones(5), np.ones(6)),
        "confusion_matrix": ({"adk": {"em": np.ones((2, 3), dtype=int)}},),
        "latent_scatter": ({"adk": z[:, 0]}, {"adk": np.zeros(len(z), dtype=int)}),
        "volume_surfaces": (made["volume_surfaces"][0][0], {}),
        "pictures": (np.zeros((8, 8)), ["one"]),
        "curves": (np.arange(5), {"one": np.arange(6)}, "x", "y"),
    }
    for name, arguments in wrong.items():
        with pytest.raises(TypeCheckError):
            getattr(plots, name)(*arguments)


def test_a_bar_of_accuracy_is_the_mean_over_seeds_in_the_style_of_its_method(made):
    table = pd.concat([made["accuracy_bars"][0].assign(accuracy=a, accuracy_unseen=a - 0.1) for a in (0.8, 0.9)])
    axis = plots.accuracy_bars(table).axes[0]
    bars = axis.patches[: len(METHODS)]
    assert [bar.get_width() for bar in bars] == pytest.approx([0.85] * len(METHODS))
    assert [bar.get_hatch() or "" for bar in bars] == [plots.METHODS[m].hatch for m in METHODS]
    assert [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars] == [plots.METHODS[m].colour for m in METHODS]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names[: len(METHODS)] == [plots.METHODS[m].two_lines for m in METHODS]
    assert axis.get_lines()[0].get_xdata() == pytest.approx([0.75] * len(METHODS))


def test_each_bayes_bound_has_a_bar_and_a_number_of_its_own(made):
    axis = plots.accuracy_bars(made["accuracy_bars"][0]).axes[0]
    assert [bar.get_width() for bar in axis.patches[len(METHODS) :]] == pytest.approx([0.95, 0.99])
    assert [text.get_text() for text in axis.texts][-2:] == ["95.00 %", "99.00 %"]


def test_markers_of_equal_accuracy_stand_side_by_side_and_others_stay(made):
    table = made["accuracy_lines"][0].assign(bound_marginal=0.99)
    odds = {m: 0.0 if m in METHODS[:3] else 0.7 * METHODS.index(m) for m in METHODS}
    table["accuracy"] = table["method"].map({m: 1 / (1 + np.exp(-value)) for m, value in odds.items()})
    axis = plots.accuracy_lines(table, ("snr", "SNR")).axes[0]
    lines = {c.get_label(): c.lines[0].get_xdata() for c in axis.containers}
    first = [lines[plots.METHODS[m].explained][0] for m in METHODS]
    assert len(set(first[:3])) == 3 and np.exp(np.log(first[:3]).mean()) == pytest.approx(0.01)
    assert first[3:] == pytest.approx([0.01] * (len(METHODS) - 3))


def test_a_bar_of_the_ablation_is_a_mean_and_its_points_are_the_seeds(made):
    table, names, quantities = made["ablation_bars"]
    axis = plots.ablation_bars(table, names, quantities).axes[0]
    rows = table[table["dataset"] == DATASETS[0]]
    for place, method in enumerate(names):
        values = rows.loc[rows["method"] == method, "accuracy"]
        assert axis.patches[place].get_width() == pytest.approx(values.mean())
        assert sorted(axis.collections[place].get_offsets()[:, 0]) == pytest.approx(sorted(values))


def test_confusion_is_in_per_cent_of_the_true_class():
    counts = [[30, 10], [0, 0]]
    axis = plots.confusion_matrix({"adk": {"em": counts}}).axes[0]
    assert [text.get_text() for text in axis.texts] == ["75", "25", "0", "0"]
    assert axis.get_ylim() == (2, 0)


def test_histograms_of_pose_errors_count_all_particles_also_beyond_the_axis():
    random = np.random.default_rng(0)
    errors = {"hetacumn": np.concatenate([random.lognormal(0, 1, 500), np.zeros(20)]), "em": random.uniform(170, 190, 60)}
    axis = plots.pose_error_histogram({"adk": errors}, {"adk": 1.0}).axes[0]
    edges = np.geomspace(0.1, 180, 46)
    for method, area in zip(plots.in_order(set(errors)), axis.collections, strict=True):
        x, y = area.get_paths()[0].vertices.T
        heights = [y[np.isclose(x, low) & (y > 0)] for low in edges[:-1]]
        expected = np.histogram(errors[method].clip(0.1, 180), edges)[0] / len(errors[method])
        found = [next((h for h in row if np.isclose(h, want)), 0.0) for row, want in zip(heights, expected, strict=True)]
        assert found == pytest.approx(expected)
        assert sum(found) == pytest.approx(1)


def test_log_ratios_are_stacked_from_the_last_group_to_the_first(made):
    groups = {"one": np.full(30, 100.0), "two": np.full(20, 100.0), "none": np.zeros(10)}
    axis = plots.log_ratio_histogram(groups).axes[0]
    tops = {area.get_label(): area.get_paths()[0].vertices[:, 1].max() for area in axis.collections}
    assert tops == {"one": 50, "two": 20, "none": 10}
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["one", "two", "none"]


def test_every_method_has_a_panel_for_its_fsc_with_the_resolution_of_its_worst_class(made):
    table = made["fsc_curves"][0]
    worse = (table["class"] == 2) & (table["method"] == "em")
    table = table.assign(fsc=table["fsc"].where(~worse, table["fsc"] ** 2))
    figure = plots.fsc_curves(table)
    assert len(figure.axes) == len(DATASETS) * len(METHODS)
    for place, method in enumerate(METHODS):
        axis = figure.axes[place * len(DATASETS)]
        rows = table[(table["dataset"] == DATASETS[0]) & (table["method"] == method)]
        curve, threshold = axis.get_lines()
        assert curve.get_ydata() == pytest.approx(rows.groupby("frequency_per_A")["fsc"].mean().to_numpy())
        assert set(threshold.get_ydata()) == {0.5}
        curves = [torch.tensor(one["fsc"].to_numpy()) for _, one in rows.groupby("class")]
        assert [text.get_text() for text in axis.texts] == [f"{max(resolution_A(c, 200 / 32) for c in curves):.3g} Å"]


def test_half_maps_that_agree_almost_wholly_are_apart_on_the_axis():
    flat = {"class 1": np.full(16, 0.99, dtype=np.float32), "class 2": np.full(16, 0.998, dtype=np.float32)}
    figure = plots.map_fsc(flat, 3.2)
    figure.canvas.draw()
    axis = figure.axes[0]
    heights = [axis.transData.transform((0.01, value))[1] for value in (0.99, 0.998)]
    assert heights[1] - heights[0] > 20  # pixels
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["class 1: 6.4 Å (Nyquist)", "class 2: 6.4 Å (Nyquist)", "FSC 0.143"]


def bars_of(axis):
    """The scale bars of a panel."""
    return [line for line in axis.get_lines() if line.get_label() == "scale bar"]


@pytest.mark.parametrize("extent_A", [7.0, 40.0, 102.4, 460.8, 1000.0])
def test_a_scale_bar_has_a_round_length_of_a_sixth_to_two_fifths_of_the_view(extent_A):
    length_A = scale_bar_A(extent_A)
    assert 0.16 * extent_A <= length_A <= 0.4 * extent_A
    assert f"{length_A:e}"[:8] in ("1.000000", "2.000000", "5.000000")


def test_a_scale_bar_in_pixels_is_its_length_in_angstrom_at_every_pixel_size():
    fine, coarse = np.random.default_rng(0).normal(size=(2, 64, 64)), np.random.default_rng(0).normal(size=(2, 32, 32))
    figure = plots.particle_gallery([coarse], [fine], ["adk"], columns=2, pixels_A=[1.5])
    for axis, pixel_A in ((figure.axes[0], 3.0), (figure.axes[2], 1.5)):
        start, end = bars_of(axis)[0].get_xdata()
        assert f"{(end - start) * pixel_A:g} Å" in [text.get_text() for text in axis.texts] and end < len(
            axis.images[0].get_array()
        )
    assert not bars_of(figure.axes[1])
    axis = plots.pictures(fine, ["a", "b"], pixel_A=2.0).axes[0]
    start, end = bars_of(axis)[0].get_xdata()
    assert [text.get_text() for text in axis.texts] == [f"{2 * (end - start):g} Å"]


def test_the_scale_bar_of_a_surface_measures_a_ball_of_known_diameter():
    plots.style()
    box, radius, voxel_A = 48, 14, 5.0
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    ball = 1 / (1 + np.exp(2 * (np.sqrt(x**2 + y**2 + z**2) - radius)))
    figure = plots.volume_surfaces(ball[None], {}, voxel_A=voxel_A)
    length_A = float(figure.axes[0].texts[0].get_text().removesuffix(" Å"))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba()).astype(int)[:, :, :3]
    blue = pixels[:, :, 2] - pixels[:, :, 0] > 30
    width = np.ptp(blue.any(0).nonzero()[0]) + 1
    black = (pixels[blue.any(1).nonzero()[0].max() + 1 :].sum(2) < 60).sum(1).max()
    half = radius + np.log(3) / 2  # where the density is a quarter of its maximum
    assert width / black == pytest.approx(2 * half * voxel_A / length_A, rel=0.06)


def test_the_overview_fits_a_page_and_shows_every_class_twice(made, tmp_path):
    plots.style()
    figure = plots.overview(*made["overview"])
    plots.save(figure, tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as image:
        assert image.width <= 1600
    assert sum(hasattr(axis, "get_zlim") for axis in figure.axes) == 2 * len(made["overview"][0].truth)
    assert sum(len(bars_of(axis)) for axis in figure.axes) == 2  # of the particles and of the volumes
    latent = figure.axes[4]
    assert sum(len(line.get_xdata()) for line in latent.get_lines()) == 200


def test_views_are_labelled_by_tilt():
    axis = plots.view_distribution(np.zeros(9), np.full(9, 30.0)).axes[0]
    labels = {text.get_text(): 90 - np.rad2deg(at) for at, text in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)}
    assert {float(label) for label in labels} == set(np.round(list(labels.values())))
    assert all(float(label) == pytest.approx(tilt) for label, tilt in labels.items())


def test_tensors_and_series_are_plotted_like_arrays():
    x, y = np.arange(1.0, 9.0), np.arange(8.0)
    lines = plots.curves(torch.tensor(x), {"a": torch.tensor(y), "b": pd.Series(y)}, "x", "y").axes[0].get_lines()
    assert all(np.array_equal(line.get_xydata(), np.stack([x, y], 1)) for line in lines)
    image = plots.pictures(torch.eye(4)[None], ["one"]).axes[0].images[0]
    assert np.array_equal(image.get_array(), np.eye(4))


def test_a_path_is_drawn_from_end_to_end_under_its_own_numbers(made):
    figure = plots.path_surfaces(made["path_surfaces"][0].repeat(5, axis=0)[:10])
    numbers = [f"volume {number}" for number in (1, 3, 5, 8, 10)]
    assert [text.get_text() for text in figure.texts] == ["front", "side (90°)", *numbers]


def test_many_classes_and_one_latent_dimension_can_be_plotted(made):
    plots.style()
    classes, z = np.arange(60) % 10, np.linspace(-1, 1, 60)[:, None]
    plots.latent_scatter({"mine": z}, {"mine": classes})
    plots.latent_density(z, z[::20])
    plots.volume_surfaces(np.repeat(made["volume_surfaces"][0], 5, axis=0)[:10], {})


def test_text_is_at_least_eight_points(made):
    plots.style()
    for name in ("accuracy_bars", "fsc_curves", "confusion_matrix"):
        figure = getattr(plots, name)(*made[name])
        figure.canvas.draw()
        assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 8


def test_a_method_has_one_colour_everywhere(made):
    plots.style()
    wanted = [plots.METHODS[m].colour for m in METHODS]
    axes = plots.fsc_curves(*made["fsc_curves"]).axes[:: len(DATASETS)]
    assert [axis.get_lines()[0].get_color() for axis in axes] == wanted


def test_a_method_that_is_missing_for_one_dataset_leaves_a_gap(made, tmp_path):
    plots.style()
    table = made["accuracy_bars"][0]
    table = table[~((table["dataset"] == "adk") & (table["method"] == "em"))]
    confusions = {d: dict(by_method) for d, by_method in made["confusion_matrix"][0].items()}
    del confusions["adk"]["em"]
    figure = plots.accuracy_bars(table)
    places = [[round(bar.get_y() + bar.get_height() / 2) for bar in axis.patches] for axis in figure.axes]
    assert places[1][: len(METHODS)] == list(range(len(METHODS)))
    assert places[0] == [place for place in places[1] if place >= len(METHODS) or METHODS[place] != "em"]
    plots.save(figure, tmp_path / "accuracy.png")
    plots.save(plots.confusion_matrix(confusions), tmp_path / "confusion.png")


def test_a_users_own_method_is_plotted(made, tmp_path):
    plots.style()
    truth, volumes = made["volume_surfaces"][:2]
    plots.save(plots.volume_surfaces(truth, {"mine": truth, **volumes}), tmp_path / "volumes.png")
    histories = {"adk": {"mine": pd.DataFrame({"step": range(9), "loss": range(9)})}}
    figure = plots.training_curves(histories, {"loss": "loss"}, ("step", "steps"))
    assert figure.axes[0].get_lines()[0].get_label() == "mine"


def test_an_empty_volume_can_be_plotted(made, tmp_path):
    truth = made["volume_surfaces"][0]
    plots.save(plots.volume_surfaces(truth, {"em": np.zeros_like(truth)}), tmp_path / "empty.png")


def test_every_dataset_of_the_ablation_is_named_once(made):
    table = made["ablation_bars"][0]
    figure = plots.ablation_bars(*made["ablation_bars"])
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == [
        plots.DATASETS[name] for name in dict.fromkeys(table["dataset"])
    ]
