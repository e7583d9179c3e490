"""Runs on simulated stacks with known truth, for realistic.py, mixtures.py, cryobench.py and others: each step runs once."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.common.project import project_root, read_params
from hetacumn.common.provenance import provenance
from hetacumn.common.run_files import read_json, read_run
from hetacumn.compute.launching import DeviceRequest
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.network.config import method_config
from hetacumn.network.training import TrainingJob, train_stack
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.prediction.answer import RATE
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

GRADES = {"em": "searched", "hetacumn": "amortized", "hetacumn-refined": "refined"}  # grade of the prediction of each method


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options that all scripts have; ``name`` is the name of the table, the figure and the folder of the runs."""
    root = project_root()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the simulation and of the training")
    parser.add_argument("--box", type=int, default=128, help="pixels of an image, over the same field of view")
    parser.add_argument("--device", default="", help="cpu or cuda; empty: CUDA where available")
    parser.add_argument("--out", type=Path, default=root / f"results/benchmark/{name}", help="folder of the runs")
    parser.add_argument("--table", type=Path, default=root / f"benchmark/{name}.csv", help="table of the scores")
    parser.add_argument("--figure", type=Path, default=root / f"figures/{name}.png", help="figure of the table")


def use_one_thread() -> None:
    """Compute with one thread in this process and in the notebooks that it runs."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def resized(settings: Simulation, box: int) -> Simulation:
    """Return the settings with another number of pixels over the same field of view; shifts keep their size in Å."""
    factor = box / settings.box
    realism = replace(settings.realism, shift_sd_px=settings.realism.shift_sd_px * factor)
    return replace(settings, box=box, pixel_A=settings.pixel_A / factor, shift_px=settings.shift_px * factor, realism=realism)


def simulate_once(
    settings: Simulation, name: str, seed: int, folder: Path, simulate: Callable[[Path], object] | None = None
) -> SimulatedDataset:
    """Simulate a stack in ``folder/particles``, unless it exists; return the dataset.

    ``simulate`` writes the stack of these settings to a folder; None calls
    :func:`~hetacumn.simulation.simulate.simulate_stack` on the CPU.

    Raises:
        HetacumnError: the folder holds a stack with other settings.
    """
    note = folder / "particles/config.json"
    content = {"dataset": name, "seed": seed, "simulation": asdict(settings)}
    if note.exists():
        found = read_json(note, "the settings of a simulation")
        if {key: found.get(key) for key in content} != json.loads(json.dumps(content)):
            raise HetacumnError(f"{note}: settings of another run; expected {content}; delete {folder} or choose another --out")
    else:
        if simulate is None:
            simulate_stack(settings, folder / "particles", seed, project_root() / "data")
        else:
            simulate(folder / "particles")
        write_json(note, content | provenance())
    return SimulatedDataset.read(folder, name)


def run_once(
    known: SimulatedDataset,
    method: str,
    seed: int,
    device: str = "",
    classes: int | None = None,
    share: float | None = None,
    overrides: Mapping | None = None,
) -> dict:
    """Train a method and predict all images, unless this was done.

    Args:
        known: the dataset.
        method: a name under ``methods`` in params.yaml.
        seed: the seed of training.
        device: cpu or cuda; empty for CUDA where available.
        classes: number of classes; None for the true number of states, 0 to let the start find the number.
        share: fraction of the images to train on; None for the fraction in params.yaml.
        overrides: settings that replace those of params.yaml.

    Returns:
        ``seconds`` of training and prediction, and the ``device``.
    """
    out, params = known.folder / method, read_params(overrides or "")
    stack = prepare_stack(known.star, known.folder / "prepared", Preprocessing.from_params(params["stack"]))
    config = method_config(params, method, classes=len(known.volumes) if classes is None else classes, seed=seed)
    job = TrainingJob(method, config, out, share or params["stack"]["trained_share"])
    return train_and_predict(stack, [job], GRADES[method], out, DeviceRequest(device or None))


def train_and_predict(stack: PreparedStack, jobs: Sequence[TrainingJob], grade: str, out: Path, devices: DeviceRequest) -> dict:
    """Train in order, and predict all images by the last model with ``grade`` in the folder ``out``, unless this was done.

    Returns:
        ``seconds`` of training (with the start) and prediction, and the ``device``.
    """
    if RATE not in read_run(out):  # a prediction writes this entry at its end
        for job in jobs:
            train_stack(stack, job, devices)
        run_prediction(stack, PredictionJob(jobs[-1].out, PredictionRequest(grade), out), devices)
    run = read_run(out)
    return {"seconds": run["train_seconds"] + len(stack) / run[RATE], "device": run["device"]}
