"""Sets and metrics of CryoBench (Jeon et al. 2024, arXiv 2408.05526), simulated anew from public structures.

The sets have the image formation of CryoBench (cryobench_sets.py):

- igg-1d: an antibody whose Fab turns about one axis, in 100 steps of 3.6°.
- igg-rl: the antibody with 100 random conformations of the linker of this Fab.
- assembly: 16 assembly states of a ribosome; the number of images falls linearly, from 16 times that of the last state.
- mixture-<N>: N different protein complexes.

Methods:

- bound: back-projection of all images of a conformation at true poses.
- bound-kernel: kernel regression of the images at true poses and true conformations.
- mean: back-projection of all images at true poses, one map for all conformations.
- em, hetacumn, hetacumn-refined: training and prediction; the volumes are kernel regressions of the images at predicted poses.
- recovar, cryodrgn: other programs at true poses, on one CPU core (cryobench_references.py).

`--poses search` finds the poses, and `--poses fixed` keeps the true poses, as in most tables of CryoBench. Training and
prediction read images of `--training-box` pixels, and the compared volumes have `--box` voxels. The script writes one row per
run to benchmark/cryobench.csv, with the metrics of hetacumn.evaluation.heterogeneity, and draws figures/cryobench-<set>.png.
The runs are in results/benchmark/cryobench. A run whose row is in the table is not repeated; delete its row to score it again,
and its folder to run it again.

Usage, after `make data`: python benchmark/cryobench.py --sets igg-1d --methods bound hetacumn --poses fixed
At the size of the paper: add --images 100000 --box 128 --training-box 64 --points 100
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cryobench_maps import kernel_maps
from cryobench_references import REFERENCES, embed_once, reference_volumes
from cryobench_sets import BOX, PIXEL_A, CryobenchSet, read_set, spread_labels, spread_rows
from jaxtyping import Float
from matplotlib.figure import Figure
from simulated_runs import GRADES, simulate_once, train_and_predict, use_one_thread
from torch import Tensor
from users import write_posed

from hetacumn import plots
from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.common.project import project_root, read_params
from hetacumn.compute.devices import device_name
from hetacumn.compute.launching import DeviceRequest
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.evaluation.heterogeneity import (
    adjusted_mutual_information,
    area_under_fsc,
    compare_conformations,
    conformation_space,
    information_imbalance,
    latent_space,
    neighbourhood_similarity,
)
from hetacumn.evaluation.scores import adjusted_rand, pose_errors
from hetacumn.evaluation.states import majority_accuracy, species_rotation_errors_deg
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.io.mrc import read_volumes
from hetacumn.network.config import method_config
from hetacumn.network.training import TrainingJob
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import PreparedStack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.source_images import SourceImages
from hetacumn.reconstruction.class_maps import back_project_rows
from hetacumn.reconstruction.kernel_maps import KernelRegression
from hetacumn.search.initial import InitialSettings
from hetacumn.simulation.structures import load_states
from hetacumn.simulation.truth import Truth

NEIGHBOURS = 200  # neighbours of the neighbourhood similarity
MOST_COMPARED = 20_000  # largest number of images for the metrics of spaces
BOUNDS = ("bound", "bound-kernel", "mean")
KEY = ["set", "images", "box", "training_box", "method", "poses", "seed"]
COLUMNS = [*KEY, "auc_fsc", "auc_sd", "auc_per_conformation", f"neighbourhood_{NEIGHBOURS}", "imbalance_true_to_z",
           "imbalance_z_to_true", "imbalance_pose_to_z", "accuracy", "ari", "ami", "rotation_median_deg", "seconds",
           "device"]  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """One simulated set with its truth, and the options of the script.

    ``share`` is the fraction of the images to train on. ``compared`` is the largest number of images for the metrics of spaces.
    """

    chosen: CryobenchSet
    known: SimulatedDataset
    seed: int
    options: argparse.Namespace
    share: float = 1.0
    compared: int = MOST_COMPARED

    @property
    def devices(self) -> DeviceRequest:
        return DeviceRequest(self.options.device or None)

    def prepare(self, poses: str) -> PreparedStack:
        """Prepare the images; with ``fixed`` poses the source table contains the true poses."""
        star = self.known.star if poses == "search" else write_posed(self.known, self.known.star.with_name("posed.star"), 0.0)
        box = self.options.training_box
        return prepare_stack(star, self.known.folder / f"prepared-{box}-{poses}", Preprocessing(box=box))

    def jobs(self, method: str, poses: str) -> list[TrainingJob]:
        """Return the training jobs of a method. All methods with the same poses use the start of ``em``."""
        params, initial = read_params(self.chosen.overrides or ""), InitialSettings(poses)  # type: ignore[arg-type]

        def job(name: str, start: str | None = None) -> TrainingJob:
            model = self.known.folder / f"{name}-{self.options.training_box}-{poses}"
            config = method_config(params, name, classes=self.chosen.classes, seed=self.seed)
            return TrainingJob(name, config, model, self.share, start, initial)

        first, trained = job("em"), method.split("-")[0]
        return [first] if trained == "em" else [first, job(trained, str(first.out))]

    def predicted(self, method: str, poses: str) -> Path:
        """Return the folder of the predictions of a method."""
        return Path("-".join([str(self.jobs(method, poses)[-1].out), *method.split("-")[1:]]))

    def run(self, method: str, poses: str) -> tuple[Path, dict]:
        """Train and predict unless this was done; return the folder of the predictions, and the seconds and the device."""
        if method in REFERENCES:
            if (box := self.options.training_box) != self.options.box:
                expected = f"expected {self.options.box}, the box of the compared volumes"
                raise HetacumnError(f"{method}: --training-box is {box}; {expected}")
            out = self.known.folder / f"{method}-{self.options.training_box}-fixed"
            return out, embed_once(method, self.prepare(poses), self.chosen.classes, self.options.limit, out)
        stack, jobs, out = self.prepare(poses), self.jobs(method, poses), self.predicted(method, poses)
        return out, train_and_predict(stack, jobs, GRADES[method], out, self.devices)

    def score(self, method: str, poses: str) -> dict:
        """Run and score a method; return the columns of its row, and save its curves and latents."""
        folder, cost = self.run(method, poses)
        found, truth = self.known.match(Predictions.read(folder))
        rows, labels = (spread(truth.classes, self.options.points) for spread in (spread_rows, spread_labels))
        points = torch.stack([*found.latents[rows], *(found.latents[truth.classes == k].mean(0) for k in labels)])
        if method in REFERENCES:
            z, volumes = found.latents, reference_volumes(method, points, self.options.limit, folder)
            maps = ((volume, None) for volume in volumes)
        else:
            components = read_volumes(folder / "volumes", "basis_")[0][1:]
            z = latent_space(found.latents, components)
            maps = kernel_maps(self.regression(self.prepare(poses), found), found, truth, points, components)
        true = self.known.volumes[torch.cat([truth.classes[rows], torch.tensor(labels)])]
        pairs = zip(maps, true, strict=True)
        curves = torch.stack(
            [compare_conformations(map, own.to(map), poses == "fixed", frame).cpu() for (map, frame), own in pairs]
        )
        per_image, per_conformation = curves[: len(rows)], curves[len(rows) :]
        self.save(method, poses, per_image, z)
        return {
            **self.areas(per_image, per_conformation),
            **self.compare_spaces(truth, self.space(truth), z),
            **self.partition(found, truth),
            **cost,
        }

    def score_bound(self, method: str) -> dict:
        """Score the reconstruction from true poses and conformations."""
        stack, began = self.prepare("fixed"), time.perf_counter()
        truth = self.known.truth[stack.rows]
        exact = Predictions(stack.metadata.names, truth.rotations, truth.shifts_A, truth.classes, torch.zeros(len(stack), 0))
        regression, space = self.regression(stack, exact), self.space(truth)
        labels = spread_labels(truth.classes, self.options.points)
        members = [(truth.classes == k).numpy().nonzero()[0] for k in labels]
        if method == "bound-kernel":
            orders = ((space - space[rows[0]]).norm(dim=1).argsort(stable=True).numpy() for rows in members)
            maps = (regression.map_of(order).maps.filtered for order in orders)
        else:
            groups = members if method == "bound" else [np.arange(len(stack))]
            averages = (back_project_rows(regression.images, rows, regression.poses, regression.device) for rows in groups)
            maps = (average.volume() for average in averages)
            if method == "mean":
                maps = itertools.repeat(next(maps), len(labels))
        curves = [compare_conformations(map.cpu(), self.known.volumes[k]) for map, k in zip(maps, labels, strict=True)]
        own = torch.stack(curves)
        self.save(method, "exact", own, torch.zeros(0, 0))
        seconds, device = time.perf_counter() - began, device_name(regression.device)
        scores = self.areas(own, own) | {"seconds": seconds, "device": device}
        if method == "mean":  # without conformations
            return scores
        return scores | self.compare_spaces(truth, space, space) | self.partition(exact, truth)

    def regression(self, stack: PreparedStack, found: Predictions) -> KernelRegression:
        images = SourceImages(stack, self.options.box)
        poses = images.poses(found.rotations, found.shifts_A)
        return KernelRegression(images, poses, self.seed, self.devices.check())

    def areas(self, per_image: Float[Tensor, "m shells"], per_conformation: Float[Tensor, "k shells"]) -> dict:
        own = area_under_fsc(per_image, BOX)
        mean = float(area_under_fsc(per_conformation, BOX).mean())
        return {"auc_fsc": float(own.mean()), "auc_sd": float(own.std()), "auc_per_conformation": mean}

    def space(self, truth: Truth) -> Float[Tensor, "n d"]:
        states = load_states(self.chosen.molecule, project_root() / "data")
        return conformation_space(states, self.known.volumes, truth.classes)

    def compare_spaces(self, truth: Truth, true: Float[Tensor, "n d"], z: Float[Tensor, "n q"]) -> dict:
        rows = np.arange(len(z))[:: -(-len(z) // self.compared)]
        true, z, poses = true[rows], z[rows], truth.rotations.flatten(1)[rows]
        return {
            f"neighbourhood_{NEIGHBOURS}": neighbourhood_similarity(true, z, min(NEIGHBOURS, len(rows) - 1)),
            "imbalance_true_to_z": information_imbalance(true, z),
            "imbalance_z_to_true": information_imbalance(z, true),
            "imbalance_pose_to_z": information_imbalance(poses, z),
        }

    def partition(self, found: Predictions, truth: Truth) -> dict:
        """Score classes and poses; the accuracy is NaN if the run has fewer classes than the set has states."""
        comparable = self.chosen.classes == len(self.known.volumes) or found.classes.equal(truth.classes)
        if self.chosen.molecule["structure"] == "complexes":  # every species has a frame of its own
            states = load_states(self.chosen.molecule, project_root() / "data")
            rotation_deg = float(np.nanmedian(species_rotation_errors_deg(found, truth, states)))
        else:
            rotation_deg = float(pose_errors(found.rotations, truth.rotations)[0].median())
        return {
            "accuracy": majority_accuracy(found.classes, truth.classes) if comparable else float("nan"),
            "ari": adjusted_rand(found.classes, truth.classes),
            "ami": adjusted_mutual_information(found.classes, truth.classes),
            "rotation_median_deg": rotation_deg,
        }

    def save(self, method: str, poses: str, curves: Float[Tensor, "m shells"], z: Float[Tensor, "_n _q"]) -> None:
        """Save the FSC curves and the latents of a run for the figure of the set."""
        with atomic_path(self.known.folder / f"scores/{method}, {poses} poses.npz") as path:
            np.savez(path, curves=curves.numpy(), z=z.numpy())

    def draw(self) -> Figure:
        """Draw the curves and the latents of all runs of the set."""
        stored = {path.stem: dict(np.load(path)) for path in sorted((self.known.folder / "scores").glob("*.npz"))}
        curves = {name: arrays["curves"] for name, arrays in stored.items()}
        areas = {name: area_under_fsc(torch.from_numpy(own), BOX).numpy() for name, own in curves.items()}
        latents = {name: arrays["z"] for name, arrays in stored.items() if arrays["z"].size}
        last = len(self.known.volumes) - 1
        return plots.heterogeneity_scores(curves, areas, latents, self.known.truth.classes.numpy() / last, BOX * PIXEL_A)


def list_runs(methods: list[str], poses: list[str]) -> Iterator[tuple[str, str]]:
    """List pairs of a method and its poses; the bounds have the exact poses, and the reference programs keep the true poses."""
    for method in methods:
        yield from ((method, one) for one in (["exact"] if method in BOUNDS else ["fixed"] if method in REFERENCES else poses))


def main(arguments: list[str] | None = None) -> None:
    root = project_root()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["igg-1d"], help="igg-1d, igg-rl, assembly or mixture-<N>")
    parser.add_argument("--methods", nargs="+", default=["bound", "hetacumn"], choices=[*BOUNDS, *GRADES, *REFERENCES])
    parser.add_argument("--poses", nargs="+", default=["fixed"], choices=["fixed", "search"], help="true poses, or no poses")
    parser.add_argument("--images", type=int, default=10_000, help="images of a set; CryoBench has 100,000")
    parser.add_argument("--box", type=int, default=64, help="voxels of the compared volumes; CryoBench has 128")
    parser.add_argument("--training-box", type=int, default=32, help="pixels of the images for training and prediction")
    parser.add_argument(
        "--points", type=int, default=25, help="images, and conformations, whose volumes are compared; CryoBench has 100"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the simulation and of the training")
    parser.add_argument("--device", default="", help="cpu or cuda; empty: CUDA where available")
    parser.add_argument(
        "--limit", type=float, default=7200, help="processor time of recovar and cryodrgn in seconds, per command"
    )
    parser.add_argument("--out", type=Path, default=root / "results/benchmark/cryobench", help="folder of the runs")
    parser.add_argument("--table", type=Path, default=root / "benchmark/cryobench.csv", help="table of the scores")
    parser.add_argument("--figures", type=Path, default=root / "figures", help="folder of the figures, one per set")
    options = parser.parse_args(arguments)
    use_one_thread()
    plots.style()
    for seed, name in itertools.product(options.seeds, options.sets):
        chosen, bench = read_set(name), None
        for method, poses in list_runs(options.methods, options.poses):
            values = (name, options.images, options.box, options.training_box, method, poses, seed)
            run = dict(zip(KEY, values, strict=True))
            if has_rows(options.table, **run):
                print(f"{name}, {method}, {poses} poses, seed {seed}: skipped, because its row is in {options.table}")
                continue
            if bench is None:
                folder = options.out / f"{name}-{options.images}-{seed}"
                known = simulate_once(chosen.simulation(options.images), name, seed, folder)
                bench = Bench(chosen, known, seed, options)
            scores = bench.score_bound(method) if method in BOUNDS else bench.score(method, poses)
            row = pd.DataFrame([run | scores], columns=COLUMNS)
            replace_rows(options.table, row, KEY)
            print(row.to_string(index=False), flush=True)
        if bench is not None:
            plots.save(bench.draw(), options.figures / f"cryobench-{name}.png", name)


if __name__ == "__main__":
    main()
