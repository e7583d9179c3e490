"""Time and memory as a function of the number of particles: 10,000, 30,000 and 100,000 images of 64 px, inferred at 32 px.

The script creates the stacks from 1,000 simulated particles, repeated with new noise, and removes them afterwards. Each size
runs in a separate process. Training is not measured, because the user chooses the fraction of the particles that it uses
(`trained_share`). The script writes benchmark/scaling.csv (particles, stage, seconds, peak_memory_mb) and figures/scaling.png.

Usage, after `make repro`: python benchmark/scaling.py [MODEL_FOLDER]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hetacumn import plots
from hetacumn.common.memory import peak_memory_mb
from hetacumn.common.project import project_root
from hetacumn.io.stacks import chunk_length, new_stack, open_stack, release_pages
from hetacumn.io.star import read_table, write_table
from hetacumn.network.model_files import trained_preprocessing
from hetacumn.particles.preparation import prepare_stack
from hetacumn.physics.fourier import crop_images
from hetacumn.prediction.predict import predict_stack
from hetacumn.prediction.request import PredictionRequest

COUNTS = (10_000, 30_000, 100_000)


def make(folder: Path, source: Path, count: int) -> Path:
    """Write a stack of ``count`` particles, copies of the first 1,000 of ``source`` with new noise; return its STAR file."""
    table, images = read_table(source), open_stack(source.with_name("particles.mrcs"))
    few, box, draw = min(1000, len(images)), 64, np.random.default_rng(0)
    smaller = crop_images(torch.from_numpy(np.array(images[:few], dtype=np.float32)), box).numpy()
    pixel_A = table.pixel_sizes()[0] * images.shape[-1] / box
    with new_stack(folder / "particles.mrcs", count, box, pixel_A) as stack:
        for start in range(0, count, chunk_length(box)):
            rows = np.arange(start, min(start + chunk_length(box), count))
            stack[rows] = smaller[rows % few] + 0.1 * draw.standard_normal((len(rows), box, box), dtype=np.float32)
            release_pages(stack)
    particles = table.particles.iloc[np.arange(count) % few].reset_index(drop=True)
    particles["rlnImageName"] = [f"{i + 1:06d}@particles.mrcs" for i in range(count)]
    write_table(folder / "particles.star", particles, table.optics.assign(rlnImageSize=box, rlnImagePixelSize=pixel_A))
    return folder / "particles.star"


def measure(star: Path, model: Path) -> None:
    """Prepare and predict a stack; print one JSON line per stage, with the peak memory so far."""
    out = star.parent
    began = time.perf_counter()
    stack = prepare_stack(star, out / "prepared", trained_preprocessing(model, {}), progress=False)
    report("preprocess", time.perf_counter() - began)
    began = time.perf_counter()
    predict_stack(stack, model, PredictionRequest("amortized"), out / "predicted")
    report("predict", time.perf_counter() - began)


def report(stage: str, seconds: float) -> None:
    """Print the cost of a stage as one line of JSON."""
    print(json.dumps({"stage": stage, "seconds": round(seconds, 1), "peak_memory_mb": round(peak_memory_mb())}), flush=True)


def main(model: Path) -> None:
    rows = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            star = make(Path(folder), model.parent / "particles" / "particles.star", count)
            command = [sys.executable, __file__, "--measure", str(star), str(model)]
            printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows += [{"particles": count} | json.loads(line) for line in printed.splitlines() if line.startswith("{")]
            print(*rows[-2:], sep="\n", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    plots.style()
    title = "Time and memory of preprocessing (64 px to 32 px) and of prediction"
    plots.save(plots.scaling(table), project_root() / "figures/scaling.png", title)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/adk/hetacumn"))
