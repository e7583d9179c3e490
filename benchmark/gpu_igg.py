"""The steps of gpu.py with IgG-1D of CryoBench: from nothing to full-box maps with their metrics, and cryoDRGN-AI.

The steps call cryobench.py with poses from the images. Training uses a part of the images; prediction uses all. The
steps write their rows to the tables gpu_cryobench.csv (the columns of cryobench.csv, and the number of images of the training)
and gpu_busy.csv, and draw gpu-igg-1d.png.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import cryobench
import pandas as pd
import torch
from cryobench_sets import CryobenchSet, read_set
from gpu_busy import BusyTable, only_joint_steps, only_pose_steps, step_costs
from gpu_cryodrgn import find_cryodrgn, run_cryodrgn_ai
from gpu_plan import Step
from simulated_parts import simulate_turn
from simulated_runs import GRADES, simulate_once

from hetacumn import plots
from hetacumn.ab_initio.start import START, load_start
from hetacumn.common.run_files import read_run
from hetacumn.compute.devices import device_name
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.network.config import TrainConfig
from hetacumn.network.trainer import Trainer
from hetacumn.network.training import TrainingJob, train_stack, training_share
from hetacumn.particles.observations import StackFingerprint, observe
from hetacumn.particles.prepared_stack import NOTE
from hetacumn.prediction.answer import RATE
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest

NAME, POSES, SEED = "igg-1d", "search", 0
KEY = [*cryobench.KEY, "trained"]
COLUMNS = [*KEY, *(name for name in cryobench.COLUMNS if name not in KEY), "epochs", "finished"]


@dataclass(frozen=True)
class Size:
    """The size of the run.

    - ``chosen``: the set.
    - ``images``: number of images of 128 px.
    - ``parts``: parts of the simulation.
    - ``share``: fraction of the images to train on.
    - ``training_box``, ``box``: pixels of the images for training and prediction, and voxels of the maps.
    - ``points``: images, and conformations, whose maps are compared with the truth.
    - ``compared``: most images for the metrics of spaces.
    - ``pose_steps``, ``joint_steps``: training steps whose kernels are counted.
    """

    chosen: CryobenchSet = field(default_factory=partial(read_set, NAME))
    images: int = 100_000
    parts: int = 20
    share: float = 0.1
    training_box: int = 64
    box: int = 128
    points: int = 20
    compared: int = 5000
    pose_steps: int = 300
    joint_steps: int = 60


@dataclass(frozen=True)
class IggRun:
    """IgG-1D in ``folder`` with rows in ``tables`` and a figure in ``figures``."""

    size: Size
    folder: Path
    tables: Path
    figures: Path
    busy: BusyTable

    @property
    def device(self) -> torch.device:
        return self.busy.device

    @property
    def table(self) -> Path:
        return self.tables / "gpu_cryobench.csv"

    def steps(self) -> list[Step]:
        """List the steps, in the order of their value; the times are estimates for one H100."""
        step, methods = partial(Step, NAME), [name for name in GRADES if name != "em"]
        simulate = step("simulate", 40, lambda left: self.known, (self.folder / "particles/config.json").exists)
        note = self.folder / f"prepared-{self.size.training_box}-{POSES}" / NOTE
        prepare = step("prepare", 15, lambda left: self.bench.prepare(POSES), note.exists, simulate)
        start, train = (
            step(name, least, lambda left, method=method: self.train(method), partial(self.is_trained, method), prepare)
            for name, method, least in (("ab initio start", "em", 60), ("training", "hetacumn", 20))
        )
        train = replace(train, needs=start)
        costs = step("count of kernels", 10, lambda left: self.count_kernels(), self.has_counted, start)
        scores: list[Step] = []
        for method in methods:
            predict = step(f"prediction, {method}", 20, lambda left, method=method: self.predict(method),
                           partial(self.is_predicted, method), train)  # fmt: skip
            score = step(f"maps and metrics, {method}", 20, lambda left, method=method: self.score(method),
                         partial(self.is_scored, method), predict)  # fmt: skip
            scores += [predict, score]
        refusal = "" if find_cryodrgn() else "cryodrgn is not installed: `make peers` installs it"
        other = step("cryoDRGN-AI", 90, self.run_cryodrgn, partial(self.is_scored, "drgnai"), prepare, refusal=refusal)
        return [simulate, prepare, start, train, *scores[:2], costs, *scores[2:], other]

    @cached_property
    def known(self) -> SimulatedDataset:
        """The simulated set, which this property simulates unless it exists."""
        whole = self.size.chosen.simulation(self.size.images)
        return simulate_once(whole, NAME, SEED, self.folder, partial(simulate_turn, whole, self.size.parts, self.device))

    @cached_property
    def bench(self) -> cryobench.Bench:
        size = self.size
        options = Namespace(device=str(self.device), training_box=size.training_box, box=size.box, points=size.points)
        return cryobench.Bench(size.chosen, self.known, SEED, options, size.share, size.compared)

    def job(self, method: str) -> TrainingJob:
        return self.bench.jobs(method, POSES)[-1]

    def train(self, method: str) -> None:
        train_stack(self.bench.prepare(POSES), self.job(method), self.bench.devices)

    def is_trained(self, method: str) -> bool:
        return "train_seconds" in read_run(self.folder / f"{method}-{self.size.training_box}-{POSES}")

    def predict(self, method: str) -> None:
        out, request = self.bench.predicted(method, POSES), PredictionRequest(GRADES[method])
        run_prediction(self.bench.prepare(POSES), PredictionJob(self.job(method).out, request, out), self.bench.devices)

    def is_predicted(self, method: str) -> bool:
        return self.is_trained("hetacumn") and RATE in read_run(self.bench.predicted(method, POSES))

    def score(self, method: str) -> None:
        """Make the maps, compute the metrics, write the row, and draw the curves and the latents of all methods."""
        self.write_row(method, self.bench.score(method, POSES))
        plots.save(self.bench.draw(), self.figures / "gpu-igg-1d.png", NAME)

    def is_scored(self, method: str) -> bool:
        return has_rows(self.table, **self.key(method))

    def key(self, method: str) -> dict:
        size = self.size
        trained = size.images if method == "drgnai" else round(size.share * size.images)
        values = (NAME, size.images, size.box, size.training_box, method, POSES, SEED, trained)
        return dict(zip(KEY, values, strict=True))

    def write_row(self, method: str, values: dict) -> None:
        row = pd.DataFrame([self.key(method) | values]).reindex(columns=COLUMNS)
        replace_rows(self.table, row, KEY)
        print(row.to_string(index=False), flush=True)

    def count_kernels(self) -> None:
        """Measure steps of the pose task alone and of the joint phase, from the start of this run."""
        job, stack, out = self.job("hetacumn"), self.bench.prepare(POSES), self.folder / "counted"
        shutil.rmtree(out, ignore_errors=True)  # holds the checkpoint of an interrupted call
        data = observe(stack.read(training_share(len(stack), job.share)), self.device)
        start = load_start(Path(str(job.start)) / START, StackFingerprint.of(data)).to(self.device)
        config = job.config.adapted_to(data).with_start(start)

        def trainer(chosen: TrainConfig) -> Trainer:
            torch.manual_seed(chosen.seed)
            return Trainer(data, chosen, out, start)

        joint = only_joint_steps(config, self.size.joint_steps, len(data))
        for phase, settings in (("step, pose task", only_pose_steps(config, self.size.pose_steps)), ("step, joint", joint)):
            self.busy.write(NAME, phase, step_costs(partial(trainer, settings), self.device))

    def has_counted(self) -> bool:
        return has_rows(self.busy.path, dataset=NAME, phase="step, joint")

    def run_cryodrgn(self, left: float) -> None:
        """Train cryoDRGN-AI on the prepared stack in the time that is left, and score its poses and latents."""
        stack = self.bench.prepare(POSES)
        found, facts = run_cryodrgn_ai(stack, self.folder / "drgnai", self.size.chosen.classes, left - 45)
        found, truth = self.known.match(found)
        spaces = self.bench.compare_spaces(truth, self.bench.space(truth), found.latents)
        scores = self.bench.partition(found, truth)
        self.write_row("drgnai", {**spaces, **scores, **facts, "device": device_name(self.device)})
