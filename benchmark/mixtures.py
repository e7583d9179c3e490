"""Mixtures of different molecules: 1,000 images of each of 4 to 45 protein complexes, at SNR 0.05 and 128 px of 2 Å.

For each number of species and seed the script simulates the images, with uniform views and shifts of up to 10 px (7.8 % of the
box). It trains method em by the route independent with as many classes as species, and predicts all images. Every predicted
class counts as the species of most of its particles. The median rotation error of a species is computed in its own frame and
hand; the table contains the median over the species. It writes benchmark/mixtures.csv and figures/mixtures.png. The runs are in
results/benchmark/mixtures/<species>-<seed>. A run whose row is in the table is not repeated; delete its row to score it again,
and its folder to run it again.

Usage, after `make data`: python benchmark/mixtures.py --species 4 8 --seeds 0 1
A quick trial: python benchmark/mixtures.py --species 2 --images 150 --box 64 --out /tmp/trial --table /tmp/trial/table.csv
  --figure /tmp/trial/figure.png
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from simulated_runs import add_options, resized, run_once, simulate_once, use_one_thread

from hetacumn import plots
from hetacumn.common.project import project_root
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.evaluation.states import majority_accuracy, species_rotation_errors_deg
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.particles.predictions import Predictions
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.structures import load_states

METHOD = "em"
SETTINGS = {"train": {"ab_initio": {"routes": ["independent"]}}}  # the route for different molecules
KEY = ["species", "seed", "method"]


def mixture(species: int, images: int) -> Simulation:
    """Return the settings of a mixture with so many ``images`` of each species on average."""
    molecule = {"structure": "complexes", "species": species}
    return Simulation(molecule, particles=images * species, box=128, pixel_A=2.0, snr=0.05, shift_px=10.0)


def score_mixture(known: SimulatedDataset, species: int, method: str) -> dict[str, float]:
    """Return the accuracy by majority vote, and the median over the species of their median rotation errors in degrees."""
    found, truth = known.match(Predictions.read(known.folder / method))
    atoms = load_states({"structure": "complexes", "species": species}, project_root() / "data")
    return {
        "accuracy": majority_accuracy(found.classes, truth.classes),
        "rotation_median_deg": float(np.nanmedian(species_rotation_errors_deg(found, truth, atoms))),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--species", type=int, nargs="+", default=[4, 8, 16, 32, 45], help="numbers of species")
    parser.add_argument("--images", type=int, default=1000, help="mean number of images of a species")
    add_options(parser, "mixtures")
    options = parser.parse_args(arguments)
    use_one_thread()
    for seed in options.seeds:
        for species in options.species:
            run = {"species": species, "seed": seed, "method": METHOD}
            if has_rows(options.table, **run):
                print(f"{species} species, seed {seed}: skipped, because its row is in {options.table}")
                continue
            settings, folder = resized(mixture(species, options.images), options.box), options.out / f"{species}-{seed}"
            known = simulate_once(settings, f"mixture{species}", seed, folder)
            cost = run_once(known, METHOD, seed, options.device, overrides=SETTINGS)
            row = pd.DataFrame([{**run, **score_mixture(known, species, METHOD), **cost}])
            replace_rows(options.table, row, KEY)
            print(row.to_string(index=False))
    plots.style()
    plots.save(plots.mixture_scores(pd.read_csv(options.table)), options.figure)


if __name__ == "__main__":
    main()
