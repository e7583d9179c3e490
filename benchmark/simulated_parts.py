"""A stack simulated in parts, in several processes at the same time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hetacumn.common.project import project_root
from hetacumn.io.mrc import read_volumes, write_volumes
from hetacumn.io.star import read_table, write_table
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

PROCESSES = 8  # most parts that are simulated at the same time
PER_PARTICLE = ("rotations", "shifts_A", "classes", "coordinate", "junk")


def simulate_part(parts: Sequence[Simulation], out: Path, device: torch.device, part: int) -> None:
    """Simulate one part of a stack in ``out/part<part>``, with the number of the part as seed."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // min(len(parts), PROCESSES)))
    simulate_stack(parts[part], out / f"part{part}", part, project_root() / "data", progress=part == 0, device=device)


def simulate_parts(parts: Sequence[Simulation], out: Path, device: torch.device) -> list[Path]:
    """Simulate the parts of a stack at the same time; return their folders."""
    with ProcessPoolExecutor(min(len(parts), PROCESSES), mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(simulate_part, parts, out, device), range(len(parts))))
    return [out / f"part{part}" for part in range(len(parts))]


def join_parts(folders: Sequence[Path], out: Path, order: np.ndarray | None = None) -> Truth:
    """Write ``out/particles.star`` with the particles of several simulations; return their truth.

    The image stacks stay in their folders. ``order`` rearranges the particles; None keeps the order of the parts. ``noise_std``
    of the truth is the mean of the parts, and ``clean`` contains images of the first part.
    """
    tables = [read_table(folder / "particles.star") for folder in folders]
    particles = pd.concat([
        table.particles.assign(rlnImageName=table.particles["rlnImageName"].str.replace("@", f"@{folder.relative_to(out)}/"))
        for folder, table in zip(folders, tables, strict=True)
    ], ignore_index=True)  # fmt: skip
    order = np.arange(len(particles)) if order is None else order
    write_table(out / "particles.star", particles.iloc[order], tables[0].optics)
    truths = [Truth.read(folder / "truth.npz") for folder in folders]
    columns = {name: torch.cat([getattr(truth, name) for truth in truths])[order] for name in PER_PARTICLE}
    return replace(truths[0], noise_std=float(np.mean([truth.noise_std for truth in truths])), **columns)


def split_turn(whole: Simulation, parts: int) -> list[Simulation]:
    """Split the simulation of a turning Fab: part ``p`` has every ``parts``-th angle from angle ``p`` on, in equal numbers.

    The simulator projects the conformations of a chunk of images one after the other, and a part has few of them. The angles of
    a part are spread over the whole turn, so that all parts have nearly the same signal. The first state of a part has no
    images: its centre of mass is the origin of all states, as in the whole stack.
    """
    angles = whole.molecule["fab_deg"]
    chosen = [angles[part::parts] for part in range(parts)]
    return [
        replace(
            whole,
            particles=len(range(part, whole.particles, parts)),
            molecule=whole.molecule | {"fab_deg": [angles[0], *own]},
            weights=(0.0, *[1 / len(own)] * len(own)),
        )
        for part, own in enumerate(chosen)
    ]


def simulate_turn(whole: Simulation, parts: int, device: torch.device, out: Path) -> None:
    """Simulate a stack of a turning Fab in the parts of :func:`split_turn`, with all particles in random order."""
    folders = simulate_parts(split_turn(whole, parts), out, device)
    truth = join_parts(folders, out, order := np.random.default_rng(0).permutation(whole.particles))
    part = np.concatenate([np.full(len(Truth.read(folder / "truth.npz").classes), p) for p, folder in enumerate(folders)])
    classes = torch.from_numpy(part[order]) + parts * (truth.classes - 1)
    volumes = [read_volumes(folder, "truth_class") for folder in folders]
    own = [volumes[k % parts][0][1 + k // parts] for k in range(len(whole.molecule["fab_deg"]))]
    write_volumes(out, torch.stack(own), "truth_class", volumes[0][1])
    replace(truth, classes=classes, coordinate=classes.float()).write(out / "truth.npz")
