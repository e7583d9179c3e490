"""Starts with given poses, fixed true poses, reference maps, a symmetry or a mask, and the round trip of a .cs table.

The script simulates datasets of benchmark/params.yaml, trains `em`, and predicts all images with the grade `searched`. It
writes benchmark/users.csv, with one row per quantity: the measured value, and the required value.

- `given_poses_*_accuracy`: accuracy with given poses that have a median error of 2°. Required: at least the accuracy of the
  start from images alone in benchmark/results.csv.
- `given_poses_*_time_share`: processor time of the start from these poses, divided by the time of the start from images alone
  in benchmark/results.csv. Required: at most 0.333.
- `given_poses_*_error_deg`: median rotation error of the poses after the start. Required: at most 2°.
- `fixed_true_poses_*_accuracy`: accuracy with fixed true poses. Required: at least the Bayes bound at known poses minus 0.01.
- `reference_*_accuracy`: accuracy of a start from the map of one state, low-passed to 40 Å. Required: at least the accuracy of
  the start from images alone minus 0.005.
- `symmetry_copy_accuracy`: share of the images of a ring of six copies in which the differing copy is found, up to one rotation
  of the ring for all images. The start uses images alone and the symmetry C6. Required: at least the Bayes bound, at poses that
  are known up to the symmetry, minus 0.03.
- `symmetry_poses_within_10deg`: share of the images whose pose has an error below 10°, up to the symmetry. Required: at
  least 0.97.
- `wrong_reference_*_warnings`: number of warnings of a start from a map of another molecule. Required: 1.
- `cs_round_trip_fields_equal`: 1 if predictions for a .cs table contain all its fields and rows, with equal values outside the
  predicted fields, and equal poses (to 1e-4) when read again; else 0. Required: 1.
- `focus_accuracy`: accuracy of the two states of a small motion in a mask, beside a large motion of another part with three
  positions, for given poses with a median error of 2°. Required: at least the accuracy of the Bayes classifier minus 0.03. The
  classifier knows the true poses and volumes, but not the position of the other part.
- `focus_gain_points`: this accuracy minus the accuracy with the same settings without the mask, in percentage points.
  Required: at least 10.

The script does not repeat a measurement whose rows are in the table. Delete the rows and the folder in results/benchmark/users
to repeat the measurement.

Usage, after `make data`: python benchmark/users.py
A quick trial: python benchmark/users.py --particles 400 --out /tmp/trial --table /tmp/trial/t.csv
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from simulated_runs import simulate_once, use_one_thread
from torch import Tensor

from hetacumn.ab_initio.start import START, load_start
from hetacumn.common.files import make_folder, write_json
from hetacumn.common.project import project_root, read_params
from hetacumn.common.run_files import read_json
from hetacumn.common.settings import with_settings
from hetacumn.compute.launching import DeviceRequest
from hetacumn.evaluation.dataset import SimulatedDataset, scale_to_images
from hetacumn.evaluation.scores import accuracy
from hetacumn.evaluation.tables import replace_rows
from hetacumn.io.cryosparc import write_rows
from hetacumn.io.star import read_table, set_poses, write_table
from hetacumn.network.config import method_config
from hetacumn.network.training import TrainingJob, train_stack, training_share
from hetacumn.particles.metadata import Poses, poses_of
from hetacumn.particles.observations import observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import read_particles
from hetacumn.physics.rotations import NEAR_DEG, align, distance_deg, equivalent, perturb
from hetacumn.physics.slices import Slicer
from hetacumn.physics.symmetry import symmetry_rotations
from hetacumn.prediction.predict import PredictionJob, run_prediction
from hetacumn.prediction.request import PredictionRequest
from hetacumn.reconstruction.masks import MaskSettings, write_mask
from hetacumn.search.initial import InitialSettings
from hetacumn.search.subspace import infer_latents, likeliest_copies
from hetacumn.simulation.settings import Simulation

ERROR_DEG = 2.0  # median error of the given poses
MEDIAN_OF_NORMAL = 1.538  # median length of a vector of three standard normal components
CPU = DeviceRequest("cpu")
CTF_FIELDS = {"accel_kv": "rlnVoltage", "cs_mm": "rlnSphericalAberration", "amp_contrast": "rlnAmplitudeContrast",
              "df1_A": "rlnDefocusU", "df2_A": "rlnDefocusV", "df_angle_rad": "rlnDefocusAngle"}  # fmt: skip
ARM_B = (-67.0, 29.0, 11.0, 60.0)  # x, y, z of the centre, and radius, in Å, of a sphere around most of arm B


@dataclass(frozen=True)
class Bench:
    """The options of the script: settings, folder of the runs, and number of images (None: as in the settings)."""

    params: dict
    out: Path
    particles: int | None

    def dataset(self, name: str) -> SimulatedDataset:
        """Simulate a dataset unless it exists."""
        settings = Simulation.of_dataset(self.params, name)
        if self.particles:
            settings = replace(settings, particles=self.particles)
        return simulate_once(settings, name, 0, self.out / name)

    def molecule(self, name: str, snr: float, particles: int) -> SimulatedDataset:
        """Simulate a molecule of the settings, unless its stack exists."""
        settings = {**self.params["molecules"][name], "particles": self.particles or particles, "snr": snr}
        return simulate_once(Simulation.from_params(settings), name, 0, self.out / name)

    def run(
        self,
        known: SimulatedDataset,
        name: str,
        initial: InitialSettings,
        error_deg: float = 0.0,
        symmetry: str = "C1",
        classes: int | None = None,
    ) -> Path:
        """Train and predict with given poses, a reference map, a symmetry or a mask; return the folder of the run.

        The poses in the particle table have the median rotation error ``error_deg``. ``classes`` is the number of classes; None
        for the true number of states. The function writes the processor time of training to ``seconds.json``.
        """
        folder = make_folder(known.folder / name)
        table, chosen = write_posed(known, folder / "posed.star", error_deg), self.params["stack"]
        stack = prepare_stack(table, folder / "prepared", Preprocessing.from_params(chosen), known.star.parent)
        config = method_config(self.params, "em", classes=classes or len(known.volumes), seed=0)
        config = with_settings(config, {"ab_initio": {"consensus": {"symmetry": symmetry}}}, "train.")
        began, is_new = time.process_time(), not (folder / START).exists()
        train_stack(stack, TrainingJob("em", config, folder, chosen["trained_share"], initial=initial), CPU)
        if is_new:
            write_json(folder / "seconds.json", {"processor_seconds": round(time.process_time() - began, 1)})
        run_prediction(stack, PredictionJob(folder, PredictionRequest("searched"), folder), CPU)
        return folder


def write_posed(known: SimulatedDataset, path: Path, error_deg: float) -> Path:
    """Write the particle table of a dataset with true poses plus random rotations of median ``error_deg``; return its path."""
    if not path.exists():
        table, truth = read_table(known.star), known.truth
        particles = table.particles.copy()
        rotations = perturb(truth.rotations.float(), error_deg / MEDIAN_OF_NORMAL, torch.Generator().manual_seed(0))
        set_poses(particles, rotations, truth.shifts_A)
        write_table(path, particles, table.optics)
    return path


def score(known: SimulatedDataset, folder: Path) -> float:
    """Compute the accuracy of the predictions in a folder."""
    found, truth = known.match(Predictions.read(folder))
    return accuracy(found.classes, truth.classes)


def baseline(name: str) -> pd.Series:
    """Return the row of the method `em` (start from images alone, seed 0) in benchmark/results.csv."""
    table = pd.read_csv(project_root() / "benchmark/results.csv")
    settings = Simulation.of_dataset(read_params(project_root() / "benchmark/params.yaml"), name)
    chosen = (table["dataset"] == name.split("-")[0]) & (table["snr"] == settings.snr)
    chosen &= (table["particles"] == settings.particles) & (table["method"] == "em") & (table["seed"] == 0)
    return table[chosen].iloc[0]


def measure_given(bench: Bench, name: str) -> dict[str, tuple[float, float]]:
    """Measure the start from given poses with errors; return the measured and the required value of each quantity."""
    known, alone = bench.dataset(name), baseline(name)
    folder = bench.run(known, "given", InitialSettings("given"), ERROR_DEG)
    seconds = read_json(folder / "seconds.json", "the time of a start")["processor_seconds"]
    rows = training_share(len(known.truth.classes), bench.params["stack"]["trained_share"])
    error = distance_deg(load_start(folder / START).poses.rotations, known.truth.rotations[rows].float()).median()
    return {
        f"given_poses_{name}_accuracy": (score(known, folder), alone["accuracy"]),
        f"given_poses_{name}_time_share": (seconds / alone["train_seconds"], 0.333),
        f"given_poses_{name}_error_deg": (float(error), ERROR_DEG),
    }


def measure_fixed(bench: Bench, name: str) -> dict[str, tuple[float, float]]:
    """Measure the start at fixed true poses."""
    known = bench.dataset(name)
    folder = bench.run(known, "fixed", InitialSettings("fixed"))
    return {f"fixed_true_poses_{name}_accuracy": (score(known, folder), baseline(name)["bound_known_pose"] - 0.01)}


def measure_reference(bench: Bench, name: str) -> dict[str, tuple[float, float]]:
    """Measure the start from the true volume of the first state."""
    known = bench.dataset(name)
    folder = bench.run(known, "reference", InitialSettings(reference=str(known.star.parent / "truth_class1.mrc")))
    return {f"reference_{name}_accuracy": (score(known, folder), baseline(name)["accuracy"] - 0.005)}


def measure_wrong_reference(bench: Bench, name: str) -> dict[str, tuple[float, float]]:
    """Count the warnings of a start from a map of the ribosome."""
    known = bench.dataset(name)
    other = bench.molecule("ribosome", 0.1, 10)
    initial = InitialSettings(reference=str(other.star.parent / "truth_class1.mrc"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bench.run(known, "wrong-reference", initial)
    said = [str(one.message) for one in caught if "another molecule" in str(one.message)]
    print("\n".join(said))
    return {f"wrong_reference_{name}_warnings": (len(said), 1)}


def measure_symmetry(bench: Bench, name: str) -> dict[str, tuple[float, float]]:
    """Measure poses and differing copies of a ring in a start from images alone with the symmetry of the ring."""
    known = bench.molecule(name, 0.1, 2000)
    folder, group = bench.run(known, "symmetric", InitialSettings(), symmetry="C6"), symmetry_rotations("C6")
    found, truth = known.match(Predictions.read(folder))
    frame = align(found.rotations, truth.rotations.float(), symmetry=group)
    errors, copies = distance_deg(frame.apply(found.rotations)[:, None], equivalent(truth.rotations.float(), group)).min(1)
    return {
        "symmetry_copy_accuracy": (float(copies.bincount().max() / len(copies)), copy_bound(known, group) - 0.03),
        "symmetry_poses_within_10deg": (float((errors < NEAR_DEG).float().mean()), 0.97),
    }


def copy_bound(known: SimulatedDataset, group: Float[Tensor, "g 3 3"], box: int = 32) -> float:
    """Compute the Bayes bound of `symmetry_copy_accuracy`, for the true volume and true poses up to a point group."""
    truth, particles = known.truth, read_particles(known.star, box=box, centre=False)
    poses = Poses(truth.rotations.float(), truth.shifts_A.float() / particles.pixel_A)
    (volume,) = scale_to_images(known.volumes, box, truth.noise_std)
    found = likeliest_copies(observe(particles), Slicer(volume[None]), poses, group)
    return float((distance_deg(found.poses.rotations, poses.rotations) < 1).float().mean())


def measure_cs(bench: Bench, name: str) -> dict[str, tuple[float, float]]:
    """Write the true poses as predictions for a .cs table, and compare the written table with the source."""
    known = bench.dataset(name)
    source, out = known.folder / "source.cs", known.folder / "round-trip"
    table, n = read_table(known.star), len(known.truth.classes)
    stacks = [image.split("@") for image in table.names()]
    rows = np.zeros(n, [("uid", "<u8"), ("blob/path", "S200"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                        ("blob/psize_A", "<f4"), *((f"ctf/{field}", "<f4") for field in ("phase_shift_rad", *CTF_FIELDS)),
                        ("pick_stats/ncc_score", "<f4"), ("job/unknown", "<f8", (3,))])  # fmt: skip
    generator = np.random.default_rng(0)
    rows["uid"], rows["job/unknown"] = generator.permutation(n) + 2**60, generator.normal(size=(n, 3))
    rows["blob/path"], rows["blob/idx"] = [path for _, path in stacks], [int(number) - 1 for number, _ in stacks]
    particles = read_particles(known.star, rows=np.arange(1))
    rows["blob/shape"], rows["blob/psize_A"] = particles.box, particles.pixel_A
    for field, column in CTF_FIELDS.items():
        rows[f"ctf/{field}"] = np.deg2rad(table.numbers(column)) if field == "df_angle_rad" else table.numbers(column)
    write_rows(source, rows)
    truth = known.truth
    latents = torch.zeros(n, 1)
    Predictions(read_table(source).names(), truth.rotations, truth.shifts_A, truth.classes, latents).write(out, source)
    after, again = np.load(out / "predictions.cs"), read_table(out / "predictions.cs")
    equal = all((after[field] == rows[field]).all() for field in rows.dtype.names)
    poses = poses_of(again, 1.0)
    errors = (poses.rotations - truth.rotations).abs().max(), (poses.shifts_px - truth.shifts_A).abs().max()
    return {"cs_round_trip_fields_equal": (float(equal and max(errors) < 1e-4), 1)}


def measure_focus(bench: Bench, name: str) -> dict[str, tuple[float, float]]:
    """Measure the accuracy of the states of arm B with and without a mask around this arm."""
    known = bench.molecule(name, 0.05, 2000)
    states, mask = known.truth.classes // (len(known.volumes) // 2), known.folder / "mask.mrc"
    write_mask(known.star.parent / "truth_class1.mrc", MaskSettings(sphere=ARM_B, edge_A=15.0), mask)
    found = {}
    for run, initial in (("whole", InitialSettings("given")), ("masked", InitialSettings("given", mask=str(mask)))):
        folder = bench.run(known, run, initial, ERROR_DEG, classes=2)
        found[run] = accuracy(Predictions.read(folder).classes, states)
    bound = bound_of_states(known, bench.params["stack"]["box"], states)
    return {
        "focus_accuracy": (found["masked"], bound - 0.03),
        "focus_gain_points": (100 * (found["masked"] - found["whole"]), 10),
    }


def bound_of_states(known: SimulatedDataset, box: int, states: Int[Tensor, " n"]) -> float:
    """Compute the accuracy of the Bayes classifier of the states of one part, at true poses, for equally frequent volumes.

    The likelihood of a state is the mean of the likelihoods of its volumes, which differ in the position of the other part. The
    volumes of a state follow one another.
    """
    truth, particles = known.truth, read_particles(known.star, box=box, centre=False)
    data, poses = observe(particles), Poses(truth.rotations.float(), (truth.shifts_A / particles.pixel_A).float())
    slicers = (Slicer(volume[None], 2.0) for volume in scale_to_images(known.volumes, box, truth.noise_std))
    evidence = torch.stack([infer_latents(data.within(0.45 * box), slicer, poses).log_evidence for slicer in slicers], 1)
    of_states = evidence.unflatten(1, (int(states.max()) + 1, -1)).logsumexp(2)
    return float((of_states.argmax(1) == states).float().mean())


MEASURES = {
    "symmetry": (measure_symmetry, "ring"),
    "fixed_true_poses_adk-snr10": (measure_fixed, "adk-snr10"),
    "given_poses_adk-snr10": (measure_given, "adk-snr10"),
    "reference_adk-snr100-3k": (measure_reference, "adk-snr100-3k"),
    "wrong_reference_adk-snr100-3k": (measure_wrong_reference, "adk-snr100-3k"),
    "given_poses_spliceosome-snr10": (measure_given, "spliceosome-snr10"),
    "cs_round_trip": (measure_cs, "adk-snr100-3k"),
    "focus": (measure_focus, "two-motions"),
}  # the names of the quantities of a measurement begin with its key


def main(arguments: list[str] | None = None) -> None:
    root = project_root()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measures", nargs="+", default=list(MEASURES), choices=list(MEASURES))
    parser.add_argument("--particles", type=int, help="number of images of a dataset; default: as in the settings")
    parser.add_argument("--out", type=Path, default=root / "results/benchmark/users", help="folder of the runs")
    parser.add_argument("--table", type=Path, default=root / "benchmark/users.csv", help="table of the quantities")
    options = parser.parse_args(arguments)
    use_one_thread()
    bench = Bench(read_params(root / "benchmark/params.yaml"), options.out, options.particles)
    for name in options.measures:
        measure, dataset = MEASURES[name]
        known = pd.read_csv(options.table)["quantity"] if options.table.exists() else pd.Series(dtype=str)
        if known.str.startswith(name).any():
            print(f"{name}: skipped, because its rows are in {options.table}")
            continue
        found = measure(bench, dataset)
        rows = [{"quantity": key, "value": round(value, 4), "needed": round(need, 4)} for key, (value, need) in found.items()]
        table = pd.DataFrame(rows)
        replace_rows(options.table, table, ["quantity"])
        print(table.to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
