"""Training of a method on a stack: the *ab initio* start, then the network, on one device or in several processes.

For several processes, torchrun starts :func:`main` in each of them, and :func:`work` does the part of one process. The file of
such a job is ``<out>/job-train.json``; see :mod:`hetacumn.compute.launching`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from hetacumn.ab_initio.guided import guided_start
from hetacumn.ab_initio.start import (
    MODEL,
    START,
    Start,
    UnfinishedStart,
    check_settings,
    load_start,
    save_start,
    saved_settings,
)
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, make_folder, write_json
from hetacumn.common.memory import peak_memory_mb
from hetacumn.common.run_files import read_config, read_run, write_facts
from hetacumn.common.settings import flattened
from hetacumn.compute.devices import device_name
from hetacumn.compute.launching import ONE_DEVICE, DeviceRequest, launch, run_process
from hetacumn.compute.precision import multiply_fast
from hetacumn.compute.processes import SINGLE_PROCESS, ProcessGroup
from hetacumn.network.config import TrainConfig, check_share
from hetacumn.network.model_files import CHECKPOINT, save_model
from hetacumn.network.trainer import Trainer
from hetacumn.particles.observations import Observations, StackFingerprint, observe
from hetacumn.particles.prepared_stack import PreparedStack, reopen
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.search.initial import InitialData, InitialSettings, pose_change

CALIBRATION = 4000  # particles that calibrate the second look


def training_share(count: int, share: float) -> Int[np.ndarray, " m"]:
    """Return the sorted indices, from 0, of a random fraction ``share`` of ``count`` particles.

    The choice does not depend on the seed of the training run, so that runs with different seeds can share a start.
    """
    check_share(share)
    chosen = np.random.default_rng(0).permutation(count)[: max(1, round(share * count))]
    return np.sort(chosen)


@dataclass(frozen=True)
class TrainingStack:
    """The particles to train on, their pixel size in Å, their preprocessing (if known), and the initial information."""

    data: Observations
    pixel_A: float
    preprocessing: Preprocessing | None = None
    initial: InitialData = field(default_factory=InitialData)


def run_method(
    method: str,
    stack: TrainingStack,
    config: TrainConfig,
    out: Path | str,
    start: Path | str | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Train ``method`` on a stack: ``em`` is the *ab initio* start alone; all other methods train the network.

    The function writes into ``out``: ``start.safetensors``, if the run computes a start; ``model.safetensors`` and
    ``history.csv``, if it trains the network; ``config.json`` with the settings, the stack and its preprocessing; ``run.json``
    with times, memory and device. ``start`` is the folder of an existing start to use. A second call continues an interrupted
    run; it does nothing if the run is finished. Every process of ``group`` calls this function with the whole stack, and rank 0
    alone computes the start.

    Raises:
        HetacumnError: too few particles, or files of another stack or other settings in ``out`` or ``start``.
    """
    multiply_fast(stack.data.y.device)
    out, data, pixel_A, preprocessing = make_folder(out), stack.data, stack.pixel_A, stack.preprocessing
    if config.classes > len(data):
        raise HetacumnError(f"{config.classes} classes for {len(data)} particles; expected no more classes than particles")
    if len(data) < 2:
        raise HetacumnError("1 particle to train on; expected at least 2")
    config, begin, seconds = config.adapted_to(data), None, 0.0
    facts = {"method": method, "config": asdict(config), "box": data.plane.box, "pixel_A": pixel_A,
             "stack": StackFingerprint.of(data).to_json(),
             "preprocessing": preprocessing and asdict(preprocessing), **stack.initial.settings.facts()}  # fmt: skip
    finished = method != "em" and _is_finished(out, facts)
    group.barrier()  # rank 0 must not write files while other ranks read them
    if finished:
        tqdm.write(f"{out / MODEL}: trained already with these settings; delete it to train again")
        return
    if group.is_leader:
        stack.initial.focus.write(out, pixel_A)
    if config.warm_start or method == "em":
        for turn in (group.is_leader, not group.is_leader):  # other ranks load the start of rank 0
            if turn:
                begin, seconds = find_or_make_start(stack, config, out, start)
            group.barrier()
    if method != "em":
        searched = config if begin is None else config.with_start(begin)
        seconds += train_network(stack, searched, out, begin, group, facts)
    elif group.is_leader:
        write_facts(out, facts)
    if group.is_leader:
        facts = {"train_seconds": round(seconds, 1), "peak_memory_mb": round(peak_memory_mb())}
        if begin is not None and begin.number is not None:
            facts["states"] = asdict(begin.number)
        if begin is not None and begin.frame_error_deg is not None:
            facts["frame_error_deg"] = round(begin.frame_error_deg, 1)
        if begin is not None and stack.initial.poses is not None:
            symmetry = config.ab_initio.consensus.symmetry
            facts["start_pose_change"] = pose_change(begin.poses, stack.initial.poses, symmetry)
        write_json(out / "run.json", {**read_run(out), **facts, "device": device_name(data.y.device, group)})


def _is_finished(out: Path, facts: dict) -> bool:
    """Return whether a folder holds a finished training run with these settings on this stack."""
    outputs = (MODEL, "config.json", "history.csv", "run.json")
    if (out / CHECKPOINT).exists() or not all((out / name).exists() for name in outputs):
        return False
    before, requested = read_config(out), json.loads(json.dumps(facts))
    stack, saved = (StackFingerprint.from_json(one.get("stack"), out / "config.json") for one in (requested, before))
    return saved.matches(stack) and {**before, **requested, "stack": before["stack"]} == before


def find_or_make_start(stack: TrainingStack, config: TrainConfig, out: Path, start: Path | str | None) -> tuple[Start, float]:
    """Load or compute the start; return the start and the seconds that its computation took.

    The function loads the start in the folder ``start`` if it is given, otherwise the start in ``out``. If ``out`` contains no
    start, the function computes a start and writes it into ``out``.

    Raises:
        HetacumnError: the loaded start is of another stack or has another number of components, or the start in ``out`` was
            computed with other settings.
    """
    path = (Path(start) if start else out) / START
    data, fingerprint = stack.data, StackFingerprint.of(stack.data)
    requested = start_settings(config, stack.initial.settings)
    under_way = UnfinishedStart(out, fingerprint, requested)
    if start or path.exists():
        begin, settings = load_start(path, fingerprint).to(data.y.device), saved_settings(path)
        if not start:
            check_settings(path, settings, requested)
            under_way.remove()
        found = len(begin.basis) - 1 - stack.initial.focus.outside
        if config.latent_dim not in (0, found):
            expected = f"{config.latent_dim}, the value of latent_dim"
            raise HetacumnError(f"{path}: the start has {found} components; expected {expected}")
        return begin, read_run(path.parent).get("start_seconds", 0.0)
    done = under_way.read()
    if done:
        tqdm.write(f"ab initio: continues after {under_way.seconds:.0f} s, from {under_way.folder}")
    began = time.perf_counter() - under_way.seconds

    def keep(name: str, made: dict[str, Tensor]) -> None:
        under_way.write(name, made, time.perf_counter() - began)

    begin = guided_start(data, stack.initial, config.start_config, config.seed, done, keep)
    seconds = time.perf_counter() - began
    save_start(path, begin, fingerprint, requested)
    write_json(out / "run.json", {**read_run(out), "start_seconds": round(seconds, 1)})
    under_way.remove()
    return begin, seconds


def start_settings(config: TrainConfig, initial: InitialSettings) -> dict:
    """Return all settings that a start depends on, in JSON types, by dotted name."""
    return {**config.start_settings(), **flattened(initial.facts())}


def train_network(
    stack: TrainingStack,
    config: TrainConfig,
    out: Path,
    start: Start | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    facts: dict | None = None,
) -> float:
    """Train the network and return the seconds that training took.

    The function writes ``model.safetensors`` and ``history.csv``, and ``facts`` (if given) as ``config.json``.

    A call after an interruption, with the same config and data, continues from ``out/checkpoint.pt``. On a CPU the result is
    bitwise equal to the result of an uninterrupted run.
    """
    torch.manual_seed(config.seed)
    data = stack.data
    trainer = Trainer(data, config, out, start, group, stack.initial.focus)
    trainer.run()
    if not group.is_leader:
        return trainer.seconds
    trainer.model.eval().calibrate(data.evenly_spaced(CALIBRATION), config.seed)
    save_model(out / MODEL, trainer.model, config, data.plane.box, stack.pixel_A)
    with atomic_path(out / "history.csv") as temporary:
        pd.DataFrame(trainer.history).to_csv(temporary, index=False, float_format="%.6g")
    if facts is not None:
        write_facts(out, facts)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return trainer.seconds


@dataclass(frozen=True)
class TrainingJob:
    """A training job.

    - ``method``: ``em`` for the *ab initio* start alone, or a name of a method that trains the network.
    - ``config``: the settings.
    - ``out``: the folder of the run.
    - ``share``: fraction of the particles to train on, chosen at random.
    - ``start``: folder of a finished ``em`` run whose start is used, or None.
    - ``initial``: settings of the initial information of the start: given poses, a reference map, or a mask.

    Raises:
        HetacumnError: the method, or a symmetry, cannot keep the conformation inside a mask.
    """

    method: str
    config: TrainConfig
    out: Path | str
    share: float = 1.0
    start: Path | str | None = None
    initial: InitialSettings = field(default_factory=InitialSettings)

    def __post_init__(self) -> None:
        if self.initial.mask and (group := self.config.ab_initio.consensus.symmetry) != "C1":
            raise HetacumnError(
                f"mask is {self.initial.mask!r} with symmetry {group}; expected C1 with a mask; the predictions of a run "
                f"with symmetry {group} contain one of the equivalent poses of each particle"
            )
        if self.initial.mask and self.method != "em":
            network = self.config.network
            if network.decoder != "voxel" or not self.config.warm_start:
                raise HetacumnError(
                    f"mask is {self.initial.mask!r} with network.decoder {network.decoder!r} and warm_start "
                    f"{self.config.warm_start}; expected the decoder 'voxel' and warm_start True with a mask"
                )

    def to_json(self) -> dict:
        """Return the fields by name, in JSON types."""
        return {**asdict(self), "out": str(self.out), "start": self.start and str(self.start)}

    @classmethod
    def from_json(cls, content: dict) -> TrainingJob:
        """Rebuild a job from the result of :meth:`to_json`."""
        config, initial = TrainConfig.from_params(content["config"]), InitialSettings(**content["initial"])
        return cls(**{**content, "config": config, "initial": initial})


def train_stack(stack: PreparedStack, job: TrainingJob, devices: DeviceRequest = ONE_DEVICE) -> None:
    """Train a method on a prepared stack on one or several devices; see :func:`run_method` for the files written."""
    if devices.count == 1:
        work(stack, job, devices.check(), SINGLE_PROCESS)
    else:
        content = {"stack": str(stack.folder), **job.to_json()}
        launch("hetacumn.network.training", Path(job.out) / "job-train.json", content, devices)


def work(stack: PreparedStack, job: TrainingJob, device: torch.device, group: ProcessGroup) -> None:
    """Run the part of one process in a job."""
    rows = training_share(len(stack), job.share)
    initial = InitialData.read(job.initial, stack, rows, device)
    trained = TrainingStack(observe(stack.read(rows), device), stack.pixel_A, stack.settings, initial)
    run_method(job.method, trained, job.config, job.out, job.start, group)


def main(path: str) -> int:
    """Run the part of this process, started by torchrun, in the job of the file ``path``; return the exit status."""

    def part(content: dict, device: torch.device, group: ProcessGroup) -> None:
        work(reopen(content.pop("stack")), TrainingJob.from_json(content), device, group)

    return run_process(path, part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
