"""A stack with junk: 2,400 images of four spliceosome states, 300 of another molecule (a ribosome), and 300 of pure noise.

The script trains on all images with six classes, predicts with the grade refined, and reports the classes of each kind of
image. It writes benchmark/junk.csv and figures/junk.png. The table has one row per kind: the number of particles in each class,
and quantiles of the log-likelihood ratios (molecule over no molecule). The run is in results/benchmark/junk.

Usage, after `make data`: python benchmark/junk.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from hetacumn import plots
from hetacumn.common.project import project_root, read_params
from hetacumn.io.stacks import new_stack, open_stack
from hetacumn.io.star import read_table, write_table
from hetacumn.particles.predictions import Predictions
from hetacumn.run.notebook import run_notebook
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

MOLECULE, OTHER, NOISE, CLASSES = 2400, 300, 300, 6
QUANTILES = (0.01, 0.5, 0.99)


def mix(folder: Path, first: Path, second: Path, noise: int, seed: int = 0) -> np.ndarray:
    """Write ``folder/particles.star`` and its stack: a shuffled mixture of particles and noise images.

    The particles are those of two tables with one optics group each. The noise images have the optics of the first particles of
    the first table. The function returns the origin of each image: its row in the concatenation of both tables and the noise.
    """
    tables = [read_table(star) for star in (first, second)]
    stacks = [open_stack(star.with_name("particles.mrcs")) for star in (first, second)]
    box, pixel_A = stacks[0].shape[-1], float(tables[0].pixel_sizes()[0])
    draw = np.random.default_rng(seed)
    images = np.concatenate([*stacks, draw.standard_normal((noise, box, box), dtype=np.float32)])
    particles = pd.concat([*(table.particles for table in tables), tables[0].particles.iloc[:noise]])
    order = draw.permutation(len(images))
    with new_stack(folder / "particles.mrcs", len(order), box, pixel_A) as stack:
        stack[:] = images[order]
    names = [f"{i + 1:06d}@particles.mrcs" for i in range(len(order))]
    write_table(folder / "particles.star", particles.iloc[order].assign(rlnImageName=names), tables[0].optics)
    return order


def of_kinds(kinds: dict[str, np.ndarray], found: Predictions) -> pd.DataFrame:
    """Tabulate one row per kind: its particles in each class, and quantiles of its log-likelihood ratios in nats.

    ``kinds`` maps the name of each kind to the positions of its particles.
    """
    rows, classes = [], int(found.classes.max()) + 1
    for kind, positions in kinds.items():
        part = found[positions]
        counts = {f"class_{k + 1}": count for k, count in enumerate(part.classes.bincount(minlength=classes).tolist())}
        ratios = {f"log_ratio_{q:g}": round(float(part.log_ratios.quantile(q)), 1) for q in QUANTILES}
        rows.append({"kind": kind, **counts, **ratios})
    return pd.DataFrame(rows)


def main() -> None:
    datasets, out = read_params(project_root() / "benchmark/params.yaml")["datasets"], project_root() / "results/benchmark/junk"
    spliceosome, ribosome = (Simulation.from_params(datasets[f"{name}-snr100-3k"]) for name in ("spliceosome", "ribosome"))
    ribosome = replace(ribosome, particles=OTHER, pixel_A=spliceosome.pixel_A, ctf_table=spliceosome.ctf_table)
    truth = simulate_stack(replace(spliceosome, particles=MOLECULE), out / "spliceosome", 0, project_root() / "data")
    simulate_stack(ribosome, out / "ribosome", 1, project_root() / "data")
    order = mix(out, out / "spliceosome/particles.star", out / "ribosome/particles.star", NOISE)
    names = [*(f"spliceosome, state {k + 1}" for k in range(4)), "ribosome", "noise"]
    kind_of_each = np.concatenate([truth.classes.numpy(), np.full(OTHER, 4), np.full(NOISE, 5)])[order]
    kinds = {name: (kind_of_each == k).nonzero()[0] for k, name in enumerate(names)}
    star, model, notebooks = str(out / "particles.star"), str(out / "model"), project_root() / "notebooks"
    trained = {"particles": star, "classes": str(CLASSES), "share": "1.0", "out": model}
    run_notebook(notebooks / "pipeline/2_train.ipynb", trained)
    refined = {"particles": star, "model": model, "grade": "refined", "out": str(out / "refined")}
    run_notebook(notebooks / "pipeline/3_predict.ipynb", refined)
    found = Predictions.read(out / "refined")
    of_kinds(kinds, found).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    plots.style()
    figure = plots.log_ratio_histogram({kind: found.log_ratios[rows].numpy() for kind, rows in kinds.items()})
    title = f"Log-likelihood gains of {len(found):,} images, 20 % of them junk (ribosome, noise)"
    plots.save(figure, project_root() / "figures/junk.png", title)


if __name__ == "__main__":
    main()
