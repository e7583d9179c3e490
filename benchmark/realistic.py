"""Datasets with the departures of recorded images from the simple image model: adk, ribosome and spliceosome.

The section ``realistic`` of benchmark/params.yaml lists the settings. For each dataset and seed the script simulates the
images, trains one method, predicts all images, and scores each true state. It writes benchmark/realistic.csv, with one row per
state, and figures/realistic.png. The runs are in results/benchmark/realistic/<dataset>-<seed>. A run whose rows are in the
table is not repeated; delete its rows to score it again, and its folder to run it again.

Usage, after `make data`: python benchmark/realistic.py --datasets adk-realistic --seeds 0 1 2 --method em
A quick trial: python benchmark/realistic.py --datasets adk-realistic --particles 400 --box 48 --out /tmp/trial
  --table /tmp/trial/table.csv --figure /tmp/trial/figure.png
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pandas as pd
from simulated_runs import GRADES, add_options, resized, run_once, simulate_once, use_one_thread

from hetacumn import plots
from hetacumn.common.project import project_root, read_params
from hetacumn.evaluation.dataset import SimulatedDataset, bound_dataset
from hetacumn.evaluation.states import tabulate_states
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.particles.predictions import Predictions
from hetacumn.simulation.settings import Simulation

KEY = ["dataset", "seed", "method"]
SCORES = ["state", "particles", "accuracy", "bound", "poses_within_10deg", "bound_within_10deg", "resolution_A",
          "resolution_true_poses_A"]  # fmt: skip


def score_states(known: SimulatedDataset, method: str) -> pd.DataFrame:
    """Score the predictions of a method, one row per true state."""
    folder = known.folder / method
    score = known.score(folder)
    bound = bound_dataset(known, score.volumes.shape[-1])
    return tabulate_states(known, Predictions.read(folder), score, bound)


def main(arguments: list[str] | None = None) -> None:
    datasets = read_params(project_root() / "benchmark/params.yaml")["realistic"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=list(datasets), choices=list(datasets))
    parser.add_argument("--method", default="em", choices=list(GRADES))
    parser.add_argument("--particles", type=int, default=10_000, help="number of images of a dataset")
    add_options(parser, "realistic")
    options = parser.parse_args(arguments)
    use_one_thread()
    for seed in options.seeds:
        for dataset in options.datasets:
            run = {"dataset": dataset, "seed": seed, "method": options.method}
            if has_rows(options.table, **run):
                print(f"{dataset}, seed {seed}, {options.method}: skipped, because its rows are in {options.table}")
                continue
            settings = replace(Simulation.from_params(datasets[dataset]), particles=options.particles)
            known = simulate_once(resized(settings, options.box), dataset, seed, options.out / f"{dataset}-{seed}")
            cost = run_once(known, options.method, seed, options.device)
            rows = score_states(known, options.method).assign(**run, **cost)[[*KEY, *SCORES, "seconds", "device"]]
            replace_rows(options.table, rows, KEY)
            print(rows.to_string(index=False))
    plots.style()
    plots.save(plots.state_scores(pd.read_csv(options.table)), options.figure)


if __name__ == "__main__":
    main()
