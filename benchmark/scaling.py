"""From nothing to predictions of 100,000 images of 64 px: time and memory of each stage, for 10,000, 30,000 and 100,000 images.

The script simulates 100,000 images of adenylate kinase in two states (SNR 0.1). The ab initio start and the training read
10,000 of them, at 64 px. Prediction (amortized) covers the first 10,000 and 30,000 images, and all of them. Every stage runs in
a process of its own, with all cores that PyTorch uses. The start and the training share a process, and thus a peak memory. The
script writes one row per stage to benchmark/scaling.csv (particles, stage, seconds, peak_memory_mb, accuracy, device) and draws
figures/scaling.png. A stage whose row is in the table is not repeated. The runs are in results/benchmark/scaling.

Usage, after `make data`: python benchmark/scaling.py
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
from simulated_runs import resized, simulate_once

from hetacumn import plots
from hetacumn.common.memory import peak_memory_mb
from hetacumn.common.project import project_root, read_params
from hetacumn.common.run_files import read_run
from hetacumn.compute.devices import device_name
from hetacumn.compute.launching import DeviceRequest
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.evaluation.scores import accuracy
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.io.star import read_table, write_table
from hetacumn.network.config import method_config, requested_classes
from hetacumn.network.training import TrainingJob, train_stack
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest
from hetacumn.simulation.settings import Simulation

DATASET, METHOD, BOX = "adk", "hetacumn", 64
SHARES = (0.1, 0.3, 1.0)  # fractions of the images that are predicted
TRAINED = 0.1  # fraction of the images that training reads
STAGES = {"preparation": "preparation", "start": "ab initio start", "training": "training", "prediction": "prediction"}
KEY = ["particles", "stage"]


def simulate(folder: Path, particles: int) -> SimulatedDataset:
    """Simulate the images, unless they exist."""
    settings = replace(resized(Simulation.of_dataset(read_params(), DATASET), BOX), particles=particles)
    return simulate_once(settings, DATASET, 0, folder)


def prepare(known: SimulatedDataset, count: int) -> PreparedStack:
    """Prepare the first ``count`` images, unless this was done."""
    table, star = read_table(known.star), known.star.with_name(f"first-{count}.star")
    if not star.exists():
        write_table(star, table.particles.iloc[:count], table.optics)
    return prepare_stack(star, known.folder / f"prepared-{count}", Preprocessing(box=BOX))


def run_stage(known: SimulatedDataset, stage: str, count: int) -> list[dict]:
    """Run one stage; return its rows without the memory."""
    params, devices, model, began = read_params(), DeviceRequest(), known.folder / METHOD, time.perf_counter()
    if stage == "preparation":
        prepare(known, count)
        return [{"particles": count, "stage": stage, "seconds": time.perf_counter() - began}]
    stack = prepare(known, count)
    if stage == "training":
        config = method_config(params, METHOD, classes=requested_classes(params, DATASET), seed=params["seed"])
        train_stack(stack, TrainingJob(METHOD, config, model, TRAINED), devices)
        run, trained = read_run(model), round(TRAINED * len(stack))
        return [
            {"particles": trained, "stage": "start", "seconds": run["start_seconds"]},
            {"particles": trained, "stage": "training", "seconds": run["train_seconds"] - run["start_seconds"]},
        ]
    out, began = known.folder / f"predicted-{count}", time.perf_counter()
    answer = run_prediction(stack, PredictionJob(model, PredictionRequest("amortized"), out), devices)
    seconds = time.perf_counter() - began
    found, truth = known.match(answer.predictions)
    return [{"particles": count, "stage": stage, "seconds": seconds, "accuracy": accuracy(found.classes, truth.classes)}]


def run_whole(table: Path, folder: Path, particles: int) -> None:
    """Run all stages in processes of their own, and write their rows; skip the stages whose rows are in the table."""
    simulate(folder, particles)
    counts = [round(share * particles) for share in SHARES]
    plan = [("preparation", counts[-1]), ("training", counts[-1]), *(("preparation", n) for n in counts[:-1]),
            *(("prediction", n) for n in counts)]  # fmt: skip
    for stage, count in plan:
        rows = {"particles": round(TRAINED * particles) if stage == "training" else count, "stage": stage}
        if has_rows(table, **rows):
            print(f"{stage} of {count:,} particles: skipped, because its row is in {table}")
            continue
        outputs = {"preparation": f"prepared-{count}", "training": METHOD, "prediction": f"predicted-{count}"}
        shutil.rmtree(folder / outputs[stage], ignore_errors=True)  # a stage without a row did not end, or is measured again
        command = [sys.executable, __file__, "--stage", stage, str(count), "--particles", str(particles), "--out", str(folder)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        made = pd.DataFrame([json.loads(line) for line in printed.splitlines() if line.startswith("{")])
        replace_rows(table, made.reindex(columns=[*KEY, "seconds", "peak_memory_mb", "accuracy", "device"]), KEY)
        print(made.to_string(index=False), flush=True)


def seconds_by_count(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the seconds of the stages for each number of predicted images; start and training are the same for all."""
    predicted = table[table["stage"] == "prediction"]
    once = {stage: float(table.loc[table["stage"] == stage, "seconds"].iloc[0]) for stage in ("start", "training")}
    prepared = table[table["stage"] == "preparation"].set_index("particles")["seconds"]
    return pd.DataFrame([
        {"dataset": f"images of {BOX} px", "device": f"{row.particles:,}", "preparation": prepared[row.particles], **once,
         "prediction": row.seconds}
        for row in predicted.itertuples()
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    root = project_root()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=100_000, help="number of simulated images")
    parser.add_argument("--out", type=Path, default=root / "results/benchmark/scaling", help="folder of the runs")
    parser.add_argument("--table", type=Path, default=root / "benchmark/scaling.csv", help="table of the times")
    parser.add_argument("--figure", type=Path, default=root / "figures/scaling.png", help="figure of the table")
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "COUNT"), help="run one stage, and print its rows")
    options = parser.parse_args(arguments)
    if options.stage:
        stage, count = options.stage
        for row in run_stage(SimulatedDataset.read(options.out, DATASET), stage, int(count)):
            row |= {"peak_memory_mb": round(peak_memory_mb()), "device": device_name(DeviceRequest().check())}
            print(json.dumps(row), flush=True)
        return
    run_whole(options.table, options.out, options.particles)
    plots.style()
    seconds = seconds_by_count(pd.read_csv(options.table))
    plots.save(plots.stage_bars(seconds, STAGES), options.figure, "Time from nothing to the predictions of all images")


if __name__ == "__main__":
    main()
