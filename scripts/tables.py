"""Write the tables of README.md and of the guides in docs/ from the CSV files of the results.

A page marks the place of a table by the lines ``<!-- table: NAME -->`` and ``<!-- end -->``. NAME is a key of :data:`TABLES`. A
page may contain any of the tables, or none. Usage: python scripts/tables.py
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from hetacumn.plots import DATASETS
from hetacumn.simulation.settings import Simulation

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULTS, TIMINGS, RESOLUTION, BENCHMARK, RATES, GPU, MAPS, REALISTIC = SOURCES = (
    "figures/results.csv", "figures/timings.csv", "figures/resolution.csv", "benchmark/results.csv",
    "benchmark/speed/results.csv", "benchmark/gpu.csv", "benchmark/reconstruction.csv", "benchmark/realistic.csv",
)  # fmt: skip
EXPLAINED = {
    "em": "`em`: *ab initio* start and exhaustive pose search, no network",
    "amortized": "`amortized`: image reconstruction as the only task, similar to cryoFIRE",
    "hetacumn-bare": "`hetacumn-bare`: the two tasks of the paper and no additions",
    "hetacumn-encoder": "`hetacumn-encoder`: without decoder feedback",
}
PROGRAMS = {
    "relion": "RELION 3.1, InitialModel then Class3D",
    "cryodrgn2": "cryoDRGN2 (`abinit_het_old`)",
    "drgnai": "cryoDRGN-AI (`abinit`)",
    "drgnai-conf": "cryoDRGN-AI with `--use-conf-encoder`",
}
OWN = ["amortized", "hetacumn-bare", "em", "hetacumn", "hetacumn-refined"]
MAIN_METHODS = ["em", "hetacumn", "hetacumn-refined"]
HEADLINE = ["em", "amortized", "hetacumn", "hetacumn-refined"]
HEADLINE_RATES = ["em", "hetacumn"]
SPEED = {
    "slices of 5 volumes": "central slices of 5 volumes",
    "preprocessing, from twice the box": "preprocessing, from images of twice the box",
    "ab initio step": "*ab initio* step",
    "encoder, forward and backward": "encoder, forward and backward",
    "the same, torch.compile": "encoder, forward and backward, `torch.compile`",
    "training step, pose task": "training step, pose task",
    "training step, both tasks": "training step, both tasks",
    "inference, encoder": "inference, encoder alone",
    "inference, amortized": "**inference, `hetacumn`**",
    "inference, refined": "inference, `hetacumn-refined`",
}
WITH_PEAK = ("ab initio", "encoder, forward", "training step, pose")  # rows that show their fraction of the machine's peak


def rows_of(head: list[str], lines: list[list[str]]) -> str:
    """Format a table in Markdown."""
    head_line, *others = ("| " + " | ".join(cells) + " |" for cells in (head, *lines))
    return "\n".join([head_line, "|---" * len(head) + "|", *others])


def degrees(value: float) -> str:
    """Format an angle: one decimal below 15°."""
    return f"{value:.1f}°" if value < 15 else f"{value:.0f}°"


def angstrom(value: float) -> str:
    """Format a resolution: one decimal below 10 Å."""
    return f"{value:.1f} Å" if value < 10 else f"{value:.0f} Å"


def name(method: str) -> str:
    """Format the name of a method of this package."""
    return "**`hetacumn`**" if method == "hetacumn" else f"`{method}`"


def pipeline_table() -> pd.DataFrame:
    """Read the scores and the timings of the main pipeline: one row a dataset and method."""
    scores, timings = pd.read_csv(ROOT / RESULTS), pd.read_csv(ROOT / TIMINGS)
    return scores.merge(timings, on=["dataset", "method"], how="left")


def read_settings() -> dict:
    """Read params.yaml."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def headline() -> str:
    """Summarise the main pipeline: one row a dataset, with accuracy, rotation error and prediction rate of the main methods."""
    classes, lines = read_settings()["classes"], []
    for dataset, rows in pipeline_table().groupby("dataset", sort=False):
        methods = rows.set_index("method")
        scores = [f"{row.accuracy:.3f}, {degrees(row.rotation_error_deg)}" for row in methods.loc[HEADLINE].itertuples()]
        rates = [f"{rate:,.0f}" for rate in methods.loc[HEADLINE_RATES, "predict_particles_per_second"]]
        lines.append([DATASETS[dataset], str(classes[dataset]), *scores, *rates])
    names = [f"`{method}`" for method in HEADLINE]
    return rows_of(["dataset", "states", *names, *(f"`{method}`, particles/s" for method in HEADLINE_RATES)], lines)


def realistic() -> str:
    """Summarise `em` on realistic images beside the images of the main pipeline: one row a dataset.

    Accuracies and shares are means over the particles of all seeds; their bounds follow in brackets.
    """
    table, lines = pd.read_csv(ROOT / REALISTIC), []
    mild = pd.read_csv(ROOT / RESULTS).query("method == 'em'").set_index("dataset")
    for dataset, row in mild.iterrows():
        rows = table[table["dataset"] == f"{dataset}-realistic"]
        share = rows["particles"] / rows["particles"].sum()
        accuracy, bound, near, near_bound = (
            (rows[column] * share).sum() for column in ("accuracy", "bound", "poses_within_10deg", "bound_within_10deg")
        )
        lines.append(
            [
                DATASETS[dataset],
                f"{row['accuracy']:.3f} ({row['bound_marginal']:.3f})",
                f"{accuracy:.3f} ({bound:.3f})",
                f"{100 * near:.0f} % ({100 * near_bound:.0f} %)",
                str(rows["seed"].nunique()),
            ]
        )
    return rows_of(["dataset", "accuracy", "accuracy, realistic", "poses within 10°, realistic", "simulations"], lines)


FULL_BOX = {
    "resolution_training_box_A": "volume, training box",
    "resolution_full_A": "map, full box",
    "half_map_resolution_A": "half maps, full box",
    "resolution_true_poses_A": "map, true poses",
}


def resolution() -> str:
    """Summarise the full-box maps of `hetacumn-refined`: one row a dataset, with the resolutions of its worst state."""
    table = pd.read_csv(ROOT / RESOLUTION)
    table = table[table["method"] == "hetacumn-refined"]
    lines = [[DATASETS[dataset], *(angstrom(rows[column].max()) for column in FULL_BOX)]
             for dataset, rows in table.groupby("dataset", sort=False)]  # fmt: skip
    return rows_of(["dataset", *FULL_BOX.values()], lines)


def states() -> str:
    """Tabulate the full-box maps of every method and state."""
    lines = []
    for row in pd.read_csv(ROOT / RESOLUTION).itertuples():
        limits = [f"{getattr(row, column):.2f} Å" for column in FULL_BOX]
        lines.append([DATASETS[row.dataset], name(row.method), str(row.state), f"{row.particles:,}", *limits])
    return rows_of(["dataset", "method", "state", "particles", *FULL_BOX.values()], lines)


STEPS = {
    "back-projection": "back-projection, images in memory",
    "halves": "four classes with half maps, from files",
    "refinement": "four classes with refinement, from files",
}


def reconstruction() -> str:
    """Tabulate the speed and the memory of full-box reconstruction."""
    table = pd.read_csv(ROOT / MAPS).sort_values(["box", "what", "images"])
    lines = [[STEPS[row.what], f"{row.box} px", f"{row.images:,}", f"{row.images_per_second:,.0f}", f"{row.seconds:.0f} s",
              f"{row.memory_mb / 1000:.1f} GB"] for row in table.itertuples()]  # fmt: skip
    return rows_of(["step", "box", "images", "images/s", "time", "peak memory"], lines)


def results() -> str:
    """Tabulate all methods of the main pipeline on its three datasets."""
    table, params, lines = pipeline_table(), read_settings(), []
    for dataset, rows in table.groupby("dataset", sort=False):
        for at, row in enumerate(rows.itertuples()):
            first = f"{DATASETS[dataset]} ({degrees(row.rotation_bound_deg)}, {nyquist(params, dataset)})" if at == 0 else ""
            label = EXPLAINED.get(row.method, name(row.method)) if dataset == table["dataset"][0] else name(row.method)
            lines.append(
                [
                    first,
                    label,
                    f"{row.accuracy:.3f}",
                    f"{row.accuracy_unseen:.3f}",
                    degrees(row.rotation_error_deg),
                    angstrom(row.resolution_A),
                    f"{row.train_seconds:.0f} s",
                    f"{row.predict_particles_per_second:,.0f}",
                ]
            )
    return rows_of(
        [
            "dataset (pose bound, Nyquist)",
            "method",
            "accuracy",
            "unseen",
            "rotation error",
            "resolution",
            "training",
            "particles/s",
        ],
        lines,
    )


def nyquist(params: dict, dataset: str) -> str:
    """Compute the finest resolution of a dataset in the training box, two of its pixels."""
    simulated = Simulation.of_dataset(params, dataset)
    return angstrom(2 * simulated.pixel_A * simulated.box / params["stack"]["box"])


def benchmark(particles: int) -> pd.DataFrame:
    """Select the benchmark's rows of stacks with so many ``particles``, without ablations and other training fractions."""
    table = pd.read_csv(ROOT / BENCHMARK)
    default = (table["trained_share"] - read_settings()["stack"]["trained_share"]).abs() < 0.01
    compared = ~table["method"].str.startswith("ablation-") & (default | (table["method"] != "hetacumn"))
    return table[compared & (table["particles"] == particles)].set_index(["dataset", "snr", "method"])


def noise() -> str:
    """Tabulate accuracy and pose error against the SNR."""
    table, lines = benchmark(10_000), []
    for dataset in DATASETS:
        for snr in sorted(set(table.loc[dataset].index.get_level_values("snr")), reverse=True):
            rows = table.loc[(dataset, snr)]
            bound = rows.loc["hetacumn"]
            accuracy = rows["accuracy"].map("{:.3f}".format)
            highest = max(accuracy)
            bold = {method: f"**{value}**" if value == highest else value for method, value in accuracy.items()}
            poses = [degrees(value) for value in (bound["rotation_bound_deg"], *rows.loc[MAIN_METHODS, "rotation_error_deg"])]
            lines.append(
                [
                    DATASETS[dataset],
                    f"{snr:g}",
                    f"{bound['bound_marginal']:.3f}",
                    *(bold[method] for method in (*MAIN_METHODS, "amortized")),
                    *poses,
                ]
            )
    names = [f"`{method}`" for method in MAIN_METHODS]
    poses = [f"{column}, rotation error" for column in names]
    return rows_of(["dataset", "SNR", "Bayes bound", *names, "`amortized`", "pose bound", *poses], lines)


def programs() -> str:
    """Tabulate accuracy, rotation error and seconds of all methods on the small datasets that other programs ran on."""
    table = benchmark(3_000)
    theirs = table[table.index.get_level_values("method").isin(PROGRAMS)]
    datasets = sorted({key[:2] for key in theirs.index}, key=lambda key: (-key[1], list(DATASETS).index(key[0])))
    rows = {(method, key): table.loc[(*key, method)]
            for key in datasets for method in (*PROGRAMS, *OWN) if (*key, method) in table.index}  # fmt: skip

    def cell(row: pd.Series | None) -> str:
        if row is None:
            return ""
        seconds = f"{'' if row['finished'] else '> '}{row['train_seconds']:,.0f} s"
        return f"{row['accuracy']:.3f}, {degrees(row['rotation_error_deg'])}, {seconds}"

    lines = [
        [PROGRAMS.get(method) or name(method), *(cell(rows.get((method, key))) for key in datasets)]
        for method in (*PROGRAMS, *OWN)
    ]
    return rows_of(["method", *(f"{DATASETS[dataset]}, SNR {snr:g}" for dataset, snr in datasets)], lines)


def speed(device: str, label: str, poses: str) -> str:
    """Tabulate the rate of each part on a device, some with their fraction of the machine's peak.

    ``label`` names the device; ``poses`` are the numbers of poses in a step of the *ab initio* start on this device.
    """
    table = pd.read_csv(ROOT / RATES)
    table = table[(table["device"] == device) & table["peer"].isna()].set_index(["what", "box"])
    boxes = sorted(set(table.index.get_level_values("box")))

    def cell(what: str, box: int) -> str:
        if (what, box) not in table.index:
            return ""
        row = table.loc[(what, box)]
        percent = 100 * row["fraction_of_peak"]
        fraction = "" if not what.startswith(WITH_PEAK) else f" ({percent:.0f} %)" if percent >= 1 else " (< 1 %)"
        return f"{row['particles_per_second']:,.0f}{fraction}"

    parts = set(table.index.get_level_values("what"))
    names = SPEED | {"ab initio step": f"{SPEED['ab initio step']}, {poses}"}
    lines = [[part, *(cell(what, box) for box in boxes)] for what, part in names.items() if what in parts]
    return rows_of([f"particles/s, {label}", *(f"{box} px" for box in boxes)], lines)


def gpu() -> str:
    """Tabulate accuracy, rotation error, seconds and memory on a GPU."""
    lines = []
    for dataset, rows in pd.read_csv(ROOT / GPU).groupby("dataset", sort=False):
        label = "spliceosome" if dataset == "large" else DATASETS[dataset]
        for at, row in enumerate(rows.itertuples()):
            first = f"{label}, {row.particles:,} images of {row.box} px, trained on {row.trained:,}" if at == 0 else ""
            lines.append(
                [
                    first,
                    name(row.method),
                    f"{row.accuracy:.3f}",
                    f"{row.accuracy_unseen:.3f}",
                    degrees(row.rotation_error_deg),
                    f"{row.start_seconds:.0f} s",
                    f"{row.train_seconds:.0f} s",
                    f"{row.particles_per_second:,}",
                    f"{row.gpu_memory_gb:.1f} GB",
                ]
            )
    return rows_of(
        [
            "dataset",
            "method",
            "accuracy",
            "unseen",
            "rotation error",
            "*ab initio* start",
            "training after the start",
            "particles/s",
            "GPU memory",
        ],
        lines,
    )


TABLES = {
    "headline": headline,
    "realistic": realistic,
    "resolution": resolution,
    "states": states,
    "reconstruction": reconstruction,
    "results": results,
    "noise": noise,
    "programs": programs,
    "speed": partial(speed, "cpu", "two cores", "41,472 poses (64 px: 115,200; 128 px: 46,656)"),
    "speed_gpu": partial(speed, "NVIDIA H100 80GB HBM3", "one H100", "41,472 poses (64 px: 115,200; 128 px: 373,248)"),
    "gpu": gpu,
}


def filled(text: str) -> str:
    """Return the text with the present contents of all its tables."""

    def table(place: re.Match) -> str:
        return f"{place[1]}\n{TABLES[place[2]]()}\n{place[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
