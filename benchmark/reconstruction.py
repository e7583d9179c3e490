"""Speed and memory of full-box reconstruction: benchmark/reconstruction.csv.

Each measurement runs in a process of its own, so that its peak memory is its own:

- back-projection: images in memory are added to one volume.
- halves: half maps, masks and FSC of four classes, from raw images on disk, without refinement.
- refinement: like halves, with refinement of the poses at the full box.

The images show adenylate kinase. The poses have errors of 1° (back-projection: random poses). A stack of more than 10,000
images contains the same 10,000 images under several names.

Usage, after `make data`: python benchmark/reconstruction.py --boxes 64 128 --images 10000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from simulated_runs import resized

from hetacumn.common.memory import peak_memory_mb
from hetacumn.common.project import project_root, read_params
from hetacumn.compute.devices import device_name, pick_device
from hetacumn.evaluation.tables import replace_rows
from hetacumn.io import star
from hetacumn.particles.metadata import Poses
from hetacumn.particles.observations import observe
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import read_particles
from hetacumn.physics.rotations import perturb, random_rotations
from hetacumn.reconstruction.back_projection import BackProjector
from hetacumn.reconstruction.reconstruct import Execution, ReconstructionSettings, choose_groups, reconstruct_groups
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

MEASUREMENTS = ("back-projection", "halves", "refinement")
KEY = ["what", "images", "box", "device", "threads"]
LARGEST = 10_000  # images that are simulated
CLASSES = 4
IN_MEMORY = 500  # images of the measurement of back-projection


def make_stack(folder: Path, images: int, box: int) -> Path:
    """Simulate a stack of ``images`` or of :data:`LARGEST` images, unless it exists; return its table."""
    count = min(images, LARGEST)
    own = folder / f"{box}px-{count}"
    if not (own / "truth.npz").exists():
        settings = Simulation.from_params(read_params(project_root() / "params.yaml")["datasets"]["adk"] | {"particles": count})
        simulate_stack(resized(settings, box), own, 0, project_root() / "data", progress=False)
    if images == count:
        return own / "particles.star"
    table = star.read_table(own / "particles.star")
    copies = -(-images // count)
    parts = []
    for copy in range(copies):
        link = own / f"copy{copy}.mrcs"
        if not link.exists():
            link.hardlink_to(own / "particles.mrcs")  # the reader refuses one file under two names
        parts.append(table.particles.assign(rlnImageName=[f"{i + 1:06d}@{link.name}" for i in range(count)]))
    path = own / f"copies{images}.star"
    star.write_table(path, pd.concat(parts, ignore_index=True).iloc[:images], table.optics)
    return path


def measure(what: str, images: int, box: int, folder: Path, device: torch.device) -> dict:
    """Measure one row of the table."""
    table = make_stack(folder, images, box)
    if what == "back-projection":
        data = observe(read_particles(table, rows=np.arange(min(IN_MEMORY, images)), progress=False), device)
        rotations = random_rotations(len(data), torch.Generator().manual_seed(0)).to(device)
        poses = Poses(rotations, torch.zeros(len(data), 2, device=device))
        projector = BackProjector(box, device)
        projector.add(data, poses)
        projector.sums()  # plans and buffers exist now
        start = perf_counter()
        rounds = -(-images // len(data))
        for _ in range(rounds):
            projector.add(data, poses)
        projector.sums().signal.sum().item()
        count = rounds * len(data)
    else:
        stack = prepare_stack(table, folder / f"prepared-{table.stem}-{box}-{images}", Preprocessing(box=32), progress=False)
        truth = Truth.read(table.parent / "truth.npz")
        repeat = np.arange(images) % len(truth.classes)
        rotations = perturb(truth.rotations[repeat], 1.0, torch.Generator().manual_seed(0))
        classes = torch.arange(images) % CLASSES
        predictions = Predictions(stack.metadata.names, rotations, truth.shifts_A[repeat], classes, torch.zeros(images, 1))
        out, settings = folder / f"maps-{what}-{box}-{images}", ReconstructionSettings(refine=what == "refinement")
        start = perf_counter()
        reconstruct_groups(stack, predictions, choose_groups(predictions), out, settings, Execution(device, progress=False))
        count = images
    seconds = perf_counter() - start
    return {"what": what, "images": images, "box": box, "device": device_name(device).split(",")[0],
            "threads": torch.get_num_threads(), "images_per_second": count / seconds, "seconds": seconds,
            "memory_mb": round(peak_memory_mb())}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    root = project_root()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", default=list(MEASUREMENTS), choices=MEASUREMENTS)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000])
    parser.add_argument("--boxes", type=int, nargs="+", default=[128])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="", help="cpu or cuda; empty: CUDA where available")
    parser.add_argument("--out", type=Path, default=root / "results/benchmark/reconstruction", help="folder of the stacks")
    parser.add_argument("--table", type=Path, default=root / "benchmark/reconstruction.csv", help="table of the measurements")
    parser.add_argument("--one", action="store_true", help="measure in this process, and print the row")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for box in options.boxes:
        for images in options.images:
            for what in options.what:
                if options.one:
                    print(json.dumps(measure(what, images, box, options.out, pick_device(options.device or None))))
                    continue
                make_stack(options.out, images, box)  # its memory must not count
                command = [sys.executable, __file__, "--one", "--what", what, "--images", str(images), "--boxes", str(box),
                           "--threads", str(options.threads), "--device", options.device,
                           "--out", str(options.out)]  # fmt: skip
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                row = json.loads(ran.stdout.splitlines()[-1])
                print(row, flush=True)
                replace_rows(options.table, pd.DataFrame([row]), KEY)


if __name__ == "__main__":
    main()
