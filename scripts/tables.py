"""The tables of README.md and of docs/, from the CSV files that they are of.

Each stands between ``<!-- table: name -->`` and ``<!-- end -->``. Usage: python scripts/tables.py
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
RESULTS, TIMINGS, BENCHMARK, RATES, GPU = SOURCES = (
    "figures/results.csv", "figures/timings.csv", "benchmark/results.csv", "benchmark/speed/results.csv", "benchmark/gpu.csv",
)  # fmt: skip
EXPLAINED = {
    "em": "`em`, K-class EM: ab initio start alone, exhaustive search",
    "amortized": "`amortized`: one task, in the manner of cryoFIRE",
    "hetacumn-bare": "`hetacumn-bare`: the two tasks and nothing else",
    "hetacumn-encoder": "`hetacumn-encoder`: without the decoder's feedback",
}
PROGRAMS = {
    "relion": "RELION 3.1, InitialModel then Class3D",
    "cryodrgn2": "cryoDRGN2 (`abinit_het_old`)",
    "drgnai": "cryoDRGN-AI (`abinit`)",
    "drgnai-conf": "cryoDRGN-AI with `--use-conf-encoder`",
}
OWN = ["amortized", "hetacumn-bare", "em", "hetacumn", "hetacumn-refined"]
SHOWN = ["em", "hetacumn", "hetacumn-refined"]
SPEED = {
    "slices of 5 volumes": "slices of five volumes",
    "preprocessing, from twice the box": "preprocessing, from twice the box",
    "ab initio step": "*ab initio* step",
    "encoder, forward and backward": "encoder, forward and backward",
    "the same, torch.compile": "the same, `torch.compile`",
    "training step, pose task": "training step, pose task",
    "training step, both tasks": "training step, both tasks",
    "inference, encoder": "inference, encoder alone",
    "inference, amortized": "**inference, `hetacumn`**",
    "inference, refined": "inference, `hetacumn-refined`",
}
SHARES = ("ab initio", "encoder, forward", "training step, pose")  # rows that say their share of the machine's peak


def rows_of(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    head_line, *others = ("| " + " | ".join(cells) + " |" for cells in (head, *lines))
    return "\n".join([head_line, "|---" * len(head) + "|", *others])


def degrees(value: float) -> str:
    """An angle as the tables have it."""
    return f"{value:.1f}°" if value < 15 else f"{value:.0f}°"


def angstrom(value: float) -> str:
    """A resolution as the tables have it."""
    return f"{value:.1f} Å" if value < 10 else f"{value:.0f} Å"


def name(method: str) -> str:
    """A method of this package."""
    return "**`hetacumn`**" if method == "hetacumn" else f"`{method}`"


def results() -> str:
    """The main pipeline's methods on its three datasets."""
    scores, timings, lines = pd.read_csv(ROOT / RESULTS), pd.read_csv(ROOT / TIMINGS), []
    table = scores.merge(timings, on=["dataset", "method"], how="left")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for dataset, found in table.groupby("dataset", sort=False):
        for at, row in enumerate(found.itertuples()):
            first = f"{dataset} ({degrees(row.rotation_bound_deg)}, {nyquist(params, dataset)})" if at == 0 else ""
            called = EXPLAINED.get(row.method, name(row.method)) if dataset == table["dataset"][0] else name(row.method)
            lines.append(
                [
                    first,
                    called,
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
            "particles / s",
        ],
        lines,
    )


def nyquist(params: dict, dataset: str) -> str:
    """The finest resolution of a dataset in the box that training reads: two of its pixels."""
    simulated = Simulation.of_dataset(params, dataset)
    return angstrom(2 * simulated.pixel_A * simulated.box / params["stack"]["box"])


def benchmark(particles: int) -> pd.DataFrame:
    """The benchmark's rows of so many particles, a method a row, without ablations and shares."""
    table = pd.read_csv(ROOT / BENCHMARK)
    share = yaml.safe_load((ROOT / "params.yaml").read_text())["stack"]["trained_share"]
    whole = (table["trained_share"] - share).abs() < 0.01
    own = ~table["method"].str.startswith("ablation-") & (whole | (table["method"] != "hetacumn"))
    return table[own & (table["particles"] == particles)].set_index(["dataset", "snr", "method"])


def noise() -> str:
    """Accuracy and pose error against noise."""
    table, lines = benchmark(10_000), []
    for dataset in DATASETS:
        for snr in sorted(set(table.loc[dataset].index.get_level_values("snr")), reverse=True):
            rows = table.loc[(dataset, snr)]
            bound = rows.loc["hetacumn"]
            accuracy = rows["accuracy"].map("{:.3f}".format)
            best = max(accuracy)
            bold = {method: f"**{value}**" if value == best else value for method, value in accuracy.items()}
            poses = [degrees(value) for value in (bound["rotation_bound_deg"], *rows.loc[SHOWN, "rotation_error_deg"])]
            lines.append(
                [
                    DATASETS[dataset],
                    f"{snr:g}",
                    f"{bound['bound_marginal']:.3f}",
                    *(bold[method] for method in (*SHOWN, "amortized")),
                    *poses,
                ]
            )
    own = [f"`{method}`" for method in SHOWN]
    return rows_of(["dataset", "SNR", "bound", *own, "`amortized`", "pose bound", *own], lines)


def programs() -> str:
    """Other programs on the small datasets that they have seen: accuracy, rotation error, seconds."""
    table = benchmark(3_000)
    seen = table[table.index.get_level_values("method").isin(PROGRAMS)]
    datasets = sorted({key[:2] for key in seen.index}, key=lambda key: (-key[1], list(DATASETS).index(key[0])))
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


def speed(device: str, called: str, start: str) -> str:
    """Particles a second of each part on a device, and the share of the machine's peak of some; ``start`` says how many poses
    a step of the start weighed there."""
    table = pd.read_csv(ROOT / RATES)
    table = table[(table["device"] == device) & table["peer"].isna()].set_index(["what", "box"])
    boxes = sorted(set(table.index.get_level_values("box")))

    def cell(what: str, box: int) -> str:
        if (what, box) not in table.index:
            return ""
        row = table.loc[(what, box)]
        percent = 100 * row["fraction_of_peak"]
        share = "" if not what.startswith(SHARES) else f" ({percent:.0f} %)" if percent >= 1 else " (< 1 %)"
        return f"{row['particles_per_second']:,.0f}{share}"

    parts = set(table.index.get_level_values("what"))
    names = SPEED | {"ab initio step": f"{SPEED['ab initio step']}, {start}"}
    lines = [[said, *(cell(what, box) for box in boxes)] for what, said in names.items() if what in parts]
    return rows_of([f"particles a second, {called}", *(f"{box} px" for box in boxes)], lines)


def gpu() -> str:
    """Accuracy, poses and seconds on a GPU."""
    lines = []
    for dataset, found in pd.read_csv(ROOT / GPU).groupby("dataset", sort=False):
        called = "spliceosome" if dataset == "large" else DATASETS[dataset]
        for at, row in enumerate(found.itertuples()):
            first = f"{called}, {row.particles:,} images of {row.box} px, {row.trained:,} trained on" if at == 0 else ""
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
            "start",
            "training after it",
            "particles / s",
            "GPU memory",
        ],
        lines,
    )


TABLES = {
    "results": results,
    "noise": noise,
    "programs": programs,
    "speed": partial(speed, "cpu", "two cores", "41,472 poses (64 px: 115,200; 128 px: 46,656)"),
    "speed_gpu": partial(speed, "NVIDIA H100 80GB HBM3", "one H100", "41,472 poses (64 px: 115,200; 128 px: 373,248)"),
    "gpu": gpu,
}


def filled(text: str) -> str:
    """The text with all its tables as the CSV files are now."""

    def table(found: re.Match) -> str:
        return f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", table, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
