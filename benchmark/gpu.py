"""The method on one GPU: the three datasets of the main pipeline, and 50,000 images at 64 px, of which a fifth is trained on.

Writes benchmark/gpu.csv: a row a dataset and method, with accuracy (of the particles that training never saw, too), the
median rotation error, and seconds by the clock: of preparing the images, of the ab initio start, of training after it, of
predicting all particles with files read and written. Datasets may run side by side: each leaves its rows in
results/gpu/<dataset>/rows.csv, and the table is of all that are there; one whose rows are whole is not run again.
figures/gpu.png shows the seconds beside those of a core of a CPU (figures/timings.csv).
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
    """A dataset of params.yaml, what is laid over its ``stack``, and in how many parts it is simulated, if in parts."""

    dataset: str
    stack: dict = field(default_factory=dict)
    parts: int = 1
    particles_of_part: int | None = None  # None: as params.yaml says


CASES = {name: Case(name) for name in ("adk", "ribosome", "spliceosome")}
CASES["large"] = Case("spliceosome", {"box": 64, "trained_share": 0.2}, parts=4, particles_of_part=12_500)
GRADES = {"em": "searched", "hetacumn": "amortized", "hetacumn-refined": "refined"}


def simulate_part(settings: Simulation, out: Path, device: torch.device, part: int) -> Path:
    """One part of a stack, with a seed of its own; its folder."""
    folder = out / f"part{part}"
    simulate_stack(settings, folder, part, project_root() / "data", progress=part == 0, device=device)
    return folder


def join(folders: list[Path], out: Path) -> None:
    """Write ``out/particles.star`` of the particles of several simulations, which are where they were."""
    tables = [read_table(folder / "particles.star") for folder in folders]
    particles = pd.concat([
        table.particles.assign(rlnImageName=table.particles["rlnImageName"].str.replace("@", f"@{folder.relative_to(out)}/"))
        for folder, table in zip(folders, tables, strict=True)
    ])  # fmt: skip
    write_table(out / "particles.star", particles, tables[0].optics)


def simulated(case: Case, out: Path, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The stack of a case, in ``out``, if it is not there yet: true rotations ``(n, 3, 3)`` and classes ``(n,)``."""
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
    """Simulate, prepare, train and predict a case: a row a method, as it is done."""
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
        found, told = answer.predictions, read_run(out / method)
        errors, _ = pose_errors(found.rotations, rotations)
        start_seconds = read_run(start)["start_seconds"]
        yield {
            "dataset": name, "box": stack.box, "particles": len(stack), "trained": int((~unseen).sum()), "method": method,
            "accuracy": accuracy(found.classes, labels), "accuracy_unseen": accuracy(found.classes[unseen], labels[unseen]),
            "rotation_error_deg": float(errors.median()), "prepare_seconds": seconds["prepare"], "start_seconds": start_seconds,
            "train_seconds": round(told["train_seconds"] - start_seconds, 1), "predict_seconds": seconds[f"predict {method}"],
            "particles_per_second": told["predict_particles_per_second"],
            "gpu_memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 1) if device.type == "cuda" else None,
            "device": device_name(device), "torch": torch.__version__,
        }  # fmt: skip


def seconds_of(gpu: pd.DataFrame, cpu: pd.DataFrame) -> pd.DataFrame:
    """Seconds of the start and of training after it: of this table, and of the rows of figures/timings.csv for its
    datasets."""
    found = gpu[gpu["method"] == "hetacumn"]
    rows = [(row.dataset, row.device.partition(",")[0], row.start_seconds, row.train_seconds) for row in found.itertuples()]
    cpu = cpu.set_index(["dataset", "method"])
    for row in found.itertuples():
        if row.dataset in cpu.index:
            start, whole = (cpu.loc[(row.dataset, method)] for method in ("em", "hetacumn"))
            rows.append((row.dataset, "1 CPU core", start.train_seconds, whole.train_seconds - start.train_seconds))
    return pd.DataFrame(rows, columns=["dataset", "device", "start", "training"])


def main() -> None:
    parser = argparse.ArgumentParser(description="The method on one GPU.")
    parser.add_argument("datasets", nargs="*", default=list(CASES), choices=list(CASES))
    results, device = project_root() / "results/gpu", pick_device()
    for name in parser.parse_args().datasets:
        rows, path = [], results / name / "rows.csv"
        if path.exists() and len(pd.read_csv(path)) == len(GRADES):
            print(f"{name}: done already; to measure it anew, delete {results / name}")
            continue
        for row in run(name, results / name, device):
            rows.append(row)
            with atomic_path(path) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
    table = pd.concat([pd.read_csv(path) for name in CASES if (path := results / name / "rows.csv").exists()])
    with atomic_path(Path(__file__).with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index=False)
    draw(table)


def draw(table: pd.DataFrame) -> None:
    """The figure of the table."""
    plots.style()
    seconds = seconds_of(table, pd.read_csv(project_root() / "figures/timings.csv"))
    images = {row.dataset: f"\n{row.particles:,} images,\n{row.box} px" for row in table.itertuples()}
    names = {"large": plots.DATASETS["spliceosome"], **plots.DATASETS}
    seconds["dataset"] = [names[dataset] + images[dataset] for dataset in seconds["dataset"]]
    stages = {"start": "ab initio start", "training": "training"}
    plots.save(plots.stage_bars(seconds, stages), project_root() / "figures/gpu.png")


if __name__ == "__main__":
    main()
