"""HetACUMN on one GPU within a limit of time: one script with an ordered plan.

The steps, in this order:

- tests: the tests that need a GPU; their numbers are written to benchmark/gpu_tests.csv.
- igg-1d: IgG-1D of CryoBench with 100,000 images of 128 px, from nothing to maps of 128 voxels with their metrics, and then
  cryoDRGN-AI at its default settings in the time that is left (gpu_igg.py). Rows: benchmark/gpu_cryobench.csv.
- adk, ribosome, spliceosome: the three datasets of the main pipeline. large: 50,000 images at 64 px with training on 20 % of
  them. benchmark/gpu.csv has one row per dataset and method: accuracy (of all particles, and of the particles that training
  did not use), median rotation error, and clock times in seconds. The times are those of the preparation of the images, of the
  ab initio start, of the training after the start, and of the prediction of all particles including files. figures/gpu.png
  compares the times with the times on one CPU core (figures/timings.csv).

benchmark/gpu_busy.csv has the share of time that the GPU is busy in each phase, and the kernels of a training step;
figures/gpu_busy.png shows the phases. The plan skips finished steps, and steps for which too little time is left. The step in
progress at the limit stops. The next call continues a start or a training, and begins other steps anew. Each row is written at
once.

Usage, after `make data`: python benchmark/gpu.py [tests igg-1d adk ribosome spliceosome large] [--minutes 10]
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from cryobench_sets import CryobenchSet
from gpu_busy import BusyTable, sample_gpu
from gpu_igg import NAME, IggRun, Size
from gpu_plan import Step, TimeLimit, run_plan
from kills import QUICK
from matplotlib.figure import Figure
from simulated_parts import join_parts, simulate_parts

from hetacumn import plots
from hetacumn.common.files import atomic_path
from hetacumn.common.project import project_root, read_params
from hetacumn.common.provenance import git_commit
from hetacumn.common.run_files import read_run
from hetacumn.compute.devices import device_name, pick_device
from hetacumn.compute.launching import DeviceRequest
from hetacumn.evaluation.scores import accuracy, pose_errors
from hetacumn.evaluation.tables import replace_rows
from hetacumn.network.config import method_config, requested_classes
from hetacumn.network.training import TrainingJob, train_stack, training_share
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest
from hetacumn.simulation.settings import Simulation
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


def simulated(case: Case, out: Path, device: torch.device) -> Truth:
    """Simulate the stack of a case in ``out``, unless it exists; return its truth."""
    settings = Simulation.of_dataset(read_params(), case.dataset)
    settings = replace(settings, particles=case.particles_of_part or settings.particles)
    if not (out / "truth.npz").exists():
        join_parts(simulate_parts([settings] * case.parts, out, device), out).write(out / "truth.npz")
    return Truth.read(out / "truth.npz")


def run(name: str, out: Path, busy: BusyTable) -> Iterator[dict]:
    """Simulate, prepare, train and predict a case; yield one row per method as soon as it is done."""
    case, settings, seconds, device = CASES[name], read_params(), {}, busy.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    classes, images = requested_classes(settings, case.dataset), settings["stack"] | case.stack
    share = images["trained_share"]

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        began = time.perf_counter()
        with busy.phase(name, what):
            yield
        seconds[what] = round(time.perf_counter() - began, 1)
        print(f"{name}: {what}, {seconds[what]:.1f} s", flush=True)

    with timed("simulate"):
        truth = simulated(case, out / "particles", device)
    with timed("prepare"):
        stack = prepare_stack(out / "particles/particles.star", out / "prepared", Preprocessing.from_params(images))
    unseen = torch.ones(len(stack), dtype=torch.bool)
    unseen[training_share(len(stack), share)] = False
    rotations, labels = truth.rotations[stack.rows], truth.classes[stack.rows]
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


def measure(name: str, out: Path, table: Path, busy: BusyTable) -> None:
    """Run a case from nothing, and write its rows to ``out/rows.csv`` and to the table."""
    shutil.rmtree(out, ignore_errors=True)
    rows = []
    for row in run(name, out, busy):
        rows.append(row)
        with atomic_path(out / "rows.csv") as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
    earlier = pd.read_csv(table) if table.exists() else pd.DataFrame(rows)[:0]
    merged = pd.concat([earlier[earlier["dataset"] != name], pd.read_csv(out / "rows.csv")])
    with atomic_path(table) as temporary:
        merged.sort_values("dataset", key=lambda names: names.map(list(CASES).index), kind="stable").to_csv(
            temporary, index=False
        )


def has_all_rows(path: Path) -> bool:
    """Return whether a case has a row for every method."""
    return path.exists() and len(pd.read_csv(path)) == len(GRADES)


def gpu_test_files() -> list[str]:
    """List the test files with a test that needs a GPU, so that pytest does not import the others."""
    needs = re.compile(r"mark\.gpu|def \w+\((.*, )?(device|generator)\b")
    return [str(path) for path in sorted((project_root() / "tests").glob("test_*.py")) if needs.search(path.read_text())]


def run_tests(files: list[str], out: Path, table: Path, device: torch.device) -> None:
    """Run the tests that need a GPU, and write the numbers of passed, failed and skipped tests."""
    report = out / "tests.xml"
    workers = ["-n", "8"] if len(files) > 1 and importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors",
               "--tb=short", f"--junitxml={report}", *workers, *files]  # fmt: skip
    with subprocess.Popen(command, cwd=project_root()) as tests:
        try:
            tests.wait()
        except KeyboardInterrupt:  # at the limit; pytest reports the tests that ran
            tests.send_signal(signal.SIGINT)
            tests.wait(20)
    suite = xml.etree.ElementTree.parse(report).getroot()[0].attrib
    count, failed, errors, skipped = (int(suite[name]) for name in ("tests", "failures", "errors", "skipped"))
    row = {"device": device_name(device), "passed": count - failed - errors - skipped, "failed": failed, "errors": errors}
    row |= {"skipped": skipped, "seconds": float(suite["time"]), "torch": torch.__version__, "commit": git_commit()}
    replace_rows(table, pd.DataFrame([row]), ["device"])


def toy_size() -> Size:
    """Return a size for a CPU: two conformations, and training with few steps."""
    quick = {"train": QUICK | {"alone_steps": 20, "joint_epochs": 1.0}}
    chosen = CryobenchSet({"structure": "igg", "fab_deg": [0, 180]}, classes=2, overrides=quick)
    return Size(chosen, images=60, parts=2, share=0.8, training_box=24, box=32, points=2, pose_steps=3, joint_steps=3)


def plan(options: argparse.Namespace, busy: BusyTable) -> list[Step]:
    """List the steps in their order. With ``--toy`` the tables and the figures are in the folder of the runs."""
    root, out, tables = project_root(), options.out, busy.path.parent
    files = [str(root / "tests/test_fsc.py")] if options.toy else gpu_test_files()
    tests = Step("tests", "pytest", 30, lambda left: run_tests(files, out, tables / "gpu_tests.csv", busy.device),
                 (out / "tests.xml").exists, most_seconds=150)  # fmt: skip
    figures = out if options.toy else root / "figures"
    igg = IggRun(toy_size() if options.toy else Size(), out / NAME, tables, figures, busy)
    groups = {"tests": [tests], NAME: igg.steps()}
    for name in CASES:
        folder, table = out / name, tables / "gpu.csv"
        groups[name] = [Step(name, "all", 50, lambda left, one=(name, folder, table): measure(*one, busy),
                             partial(has_all_rows, folder / "rows.csv"))]  # fmt: skip
    return [step for name in options.steps for step in groups[name]]


def main(arguments: list[str] | None = None) -> int:
    names = ["tests", NAME, *CASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "steps", nargs="*", metavar="step", choices=[*names, []], default=[], help=f"{', '.join(names)}; default: all"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="limit of the whole plan")
    parser.add_argument("--out", type=Path, default=project_root() / "results/gpu", help="folder of the runs")
    parser.add_argument("--toy", action="store_true", help="tests and igg-1d at a toy size, with all files in --out")
    options = parser.parse_args(arguments)
    options.steps = [name for name in names if name in (options.steps or names[: 2 if options.toy else None])]
    options.out.mkdir(parents=True, exist_ok=True)
    limit, device, tables = TimeLimit(60 * options.minutes), pick_device(), Path(__file__).parent
    plots.style()
    with sample_gpu(device) as samples:
        busy = BusyTable((options.out if options.toy else tables) / "gpu_busy.csv", device, samples)
        failed = run_plan(plan(options, busy), limit, busy)
    draw(busy.path.parent, options.out if options.toy else project_root() / "figures")
    print(f"failed: {', '.join(failed)}" if failed else "no step failed")
    return bool(failed)


def draw(tables: Path, figures: Path) -> None:
    """Draw the figures of the tables that exist."""
    if (tables / "gpu_busy.csv").exists():
        plots.save(plots.busy_bars(pd.read_csv(tables / "gpu_busy.csv")), figures / "gpu_busy.png")
    if (tables / "gpu.csv").exists():
        plots.save(plot(pd.read_csv(tables / "gpu.csv")), figures / "gpu.png")


def plot(table: pd.DataFrame) -> Figure:
    """Plot the seconds of the start and of the training, on the GPU and on one CPU core."""
    seconds = seconds_of(table, pd.read_csv(project_root() / "figures/timings.csv"))
    images = {row.dataset: f"\n{row.particles:,} images,\n{row.box} px" for row in table.itertuples()}
    names = {"large": plots.DATASETS["spliceosome"], **plots.DATASETS}
    seconds["dataset"] = [names[dataset] + images[dataset] for dataset in seconds["dataset"]]
    return plots.stage_bars(seconds, {"start": "ab initio start", "training": "training"})


if __name__ == "__main__":
    sys.exit(main())
