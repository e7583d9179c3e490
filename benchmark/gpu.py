"""HetACUMN on one GPU: the three datasets of the main pipeline, and 50,000 images at 64 px with training on 20 % of them.

The script writes benchmark/gpu.csv, with one row per dataset and method: accuracy (of all particles, and of the particles that
training did not use), median rotation error, and clock times in seconds. The times are those of the preparation of the images,
of the ab initio start, of the training after the start, and of the prediction of all particles including files.

Several datasets may run at the same time. Each writes its rows to results/gpu/<dataset>/rows.csv, and the script collects all
these files in the table. It skips datasets whose rows are complete. figures/gpu.png compares the times with the times on one
CPU core (figures/timings.csv).

Usage, after `make data`: python benchmark/gpu.py [adk ribosome spliceosome large]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from hetacumn import plots
from hetacumn.common.files import atomic_path
from hetacumn.common.project import project_root, read_params
from hetacumn.common.run_files import read_run
from hetacumn.compute.devices import device_name, pick_device
from hetacumn.compute.launching import DeviceRequest
from hetacumn.evaluation.scores import accuracy, pose_errors
from hetacumn.io.star import read_table, write_table
from hetacumn.network.config import method_config, requested_classes
from hetacumn.network.training import TrainingJob, train_stack, training_share
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth


@dataclass(frozen=True)
class Case:
    """A dataset of params.yaml, settings that override its ``stack``, and the number of parts in which it is simulated."""

    dataset: str
    stack: dict = field(default_factory=dict)
    parts: int = 1
    particles_of_part: int | None = None  # None for the number in params.yaml


CASES = {name: Case(name) for name in ("adk", "ribosome", "spliceosome")}
CASES["large"] = Case("spliceosome", {"box": 64, "trained_share": 0.2}, parts=4, particles_of_part=12_500)
GRADES = {"em": "searched", "hetacumn": "amortized", "hetacumn-refined": "refined"}


def simulate_part(settings: Simulation, out: Path, device: torch.device, part: int) -> Path:
    """Simulate one part of a stack, with the number of the part as seed; return its folder."""
    folder = out / f"part{part}"
    simulate_stack(settings, folder, part, project_root() / "data", progress=part == 0, device=device)
    return folder


def join(folders: list[Path], out: Path) -> None:
    """Write ``out/particles.star`` with the particles of several simulations. The image stacks stay in their folders."""
    tables = [read_table(folder / "particles.star") for folder in folders]
    particles = pd.concat([
        table.particles.assign(rlnImageName=table.particles["rlnImageName"].str.replace("@", f"@{folder.relative_to(out)}/"))
        for folder, table in zip(folders, tables, strict=True)
    ])  # fmt: skip
    write_table(out / "particles.star", particles, tables[0].optics)


def simulated(case: Case, out: Path, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Simulate the stack of a case in ``out``, unless it exists; return true rotations ``(n, 3, 3)`` and classes ``(n,)``."""
    settings = Simulation.of_dataset(read_params(), case.dataset)
    settings = replace(settings, particles=case.particles_of_part or settings.particles)
    folders = [out / f"part{part}" for part in range(case.parts)]
    if not (out / "particles.star").exists():
        with ProcessPoolExecutor(case.parts, mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(simulate_part, settings, out, device), range(case.parts)))
        join(folders, out)
    truths = [Truth.read(folder / "truth.npz") for folder in folders]
    return torch.cat([truth.rotations for truth in truths]), torch.cat([truth.classes for truth in truths])


def run(name: str, out: Path, device: torch.device) -> Iterator[dict]:
    """Simulate, prepare, train and predict a case; yield one row per method as soon as it is done."""
    case, settings, seconds = CASES[name], read_params(), {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    classes, images = requested_classes(settings, case.dataset), settings["stack"] | case.stack
    share = images["trained_share"]

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[what] = round(time.perf_counter() - began, 1)
        print(f"{name}: {what}, {seconds[what]:.1f} s", flush=True)

    with timed("simulate"):
        rotations, labels = simulated(case, out / "particles", device)
    with timed("prepare"):
        stack = prepare_stack(out / "particles/particles.star", out / "prepared", Preprocessing.from_params(images))
    unseen = torch.ones(len(stack), dtype=torch.bool)
    unseen[training_share(len(stack), share)] = False
    rotations, labels = rotations[stack.rows], labels[stack.rows]
    for method, grade in GRADES.items():
        model, start = out / method.removesuffix("-refined"), out / "em"
        if method == model.name:
            config = method_config(settings, method, classes=classes, seed=settings["seed"])
            with timed(f"train {method}"):
                job = TrainingJob(method, config, model, share, None if method == "em" else str(start))
                train_stack(stack, job, DeviceRequest(str(device)))
        with timed(f"predict {method}"):
            answer = run_prediction(
                stack, PredictionJob(model, PredictionRequest(grade), out / method), DeviceRequest(str(device))
            )
        found, costs = answer.predictions, read_run(out / method)
        errors, _ = pose_errors(found.rotations, rotations)
        start_seconds = read_run(start)["start_seconds"]
        yield {
            "dataset": name, "box": stack.box, "particles": len(stack), "trained": int((~unseen).sum()), "method": method,
            "accuracy": accuracy(found.classes, labels), "accuracy_unseen": accuracy(found.classes[unseen], labels[unseen]),
            "rotation_error_deg": float(errors.median()), "prepare_seconds": seconds["prepare"], "start_seconds": start_seconds,
            "train_seconds": round(costs["train_seconds"] - start_seconds, 1), "predict_seconds": seconds[f"predict {method}"],
            "particles_per_second": costs["predict_particles_per_second"],
            "gpu_memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 1) if device.type == "cuda" else None,
            "device": device_name(device), "torch": torch.__version__,
        }  # fmt: skip


def seconds_of(gpu: pd.DataFrame, cpu: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the seconds of the start and of the training after it, on the GPU and on one CPU core, for each dataset.

    ``gpu`` is the table of this script, ``cpu`` is figures/timings.csv.
    """
    found = gpu[gpu["method"] == "hetacumn"]
    rows = [(row.dataset, row.device.partition(",")[0], row.start_seconds, row.train_seconds) for row in found.itertuples()]
    cpu = cpu.set_index(["dataset", "method"])
    for row in found.itertuples():
        if row.dataset in cpu.index:
            start, whole = (cpu.loc[(row.dataset, method)] for method in ("em", "hetacumn"))
            rows.append((row.dataset, "1 CPU core", start.train_seconds, whole.train_seconds - start.train_seconds))
    return pd.DataFrame(rows, columns=["dataset", "device", "start", "training"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure HetACUMN on one GPU.")
    parser.add_argument("datasets", nargs="*", default=list(CASES), choices=list(CASES))
    results, device = project_root() / "results/gpu", pick_device()
    for name in parser.parse_args().datasets:
        rows, path = [], results / name / "rows.csv"
        if path.exists() and len(pd.read_csv(path)) == len(GRADES):
            print(f"{name}: skipped, because its rows are complete; to measure again, delete {results / name}")
            continue
        for row in run(name, results / name, device):
            rows.append(row)
            with atomic_path(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
    table = pd.concat([pd.read_csv(path) for name in CASES if (path := results / name / "rows.csv").exists()])
    with atomic_path(Path(__file__).with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False)
    plot(table)


def plot(table: pd.DataFrame) -> None:
    """Plot the table to figures/gpu.png."""
    plots.style()
    seconds = seconds_of(table, pd.read_csv(project_root() / "figures/timings.csv"))
    images = {row.dataset: f"\n{row.particles:,} images,\n{row.box} px" for row in table.itertuples()}
    names = {"large": plots.DATASETS["spliceosome"], **plots.DATASETS}
    seconds["dataset"] = [names[dataset] + images[dataset] for dataset in seconds["dataset"]]
    stages = {"start": "ab initio start", "training": "training"}
    plots.save(plots.stage_bars(seconds, stages), project_root() / "figures/gpu.png")


if __name__ == "__main__":
    main()
