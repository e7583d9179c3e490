"""The number of states that the *ab initio* start finds, against the true number.

Names of stacks are those of stop_sign.py; the suffix `-junk` means that 40 % of the images contain no particle. The names
`mixture<species>-<images of a species>` are mixtures of different molecules, for which the script selects the route
`independent`. For each stack and seed the script simulates the images, trains `em` on all images without a given number of
classes, and predicts all images. It writes benchmark/states.csv, with one row per run:

- `states`: the true number of states.
- `found`: the number of states that the start found. Images without a particle often form a state of their own.
- `volumes`, `reason`: the number of volumes of the returned start, and the reason for `found`.
- `accuracy`: fraction of the images with a particle whose state is the most frequent state of their class.

The script does not repeat a run whose row is in the table. Delete the row to score the run again, and also its folder in
results/benchmark/states to repeat the run.

Usage, after `make data`: python benchmark/states.py
A quick trial: python benchmark/states.py --stacks adk-snr100-600 --box 48 --out /tmp/trial --table /tmp/trial/t.csv
  --figure /tmp/trial/figure.png
"""

from __future__ import annotations

import argparse
import re

import pandas as pd
from mixtures import SETTINGS, mixture
from simulated_runs import add_options, resized, run_once, simulate_once, use_one_thread
from stop_sign import read_name

from hetacumn import plots
from hetacumn.common.project import project_root, read_params
from hetacumn.common.run_files import read_run
from hetacumn.evaluation.states import majority_accuracy
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.particles.predictions import Predictions
from hetacumn.simulation.settings import Simulation

KEY = ["stack", "seed"]
STACKS = [
    "one-snr100-1500", "adk-snr100-1500", "adk-snr30-1500", "ribosome-snr100-1500", "spliceosome-snr100-1500",
    "adk-snr100-1000-junk", "mixture4-300", "mixture8-300",
]  # fmt: skip


def read_stack(name: str, molecules: dict) -> tuple[Simulation, dict | None]:
    """Return the settings of the simulation of a stack, and the training settings that differ from the defaults.

    Raises:
        HetacumnError: there is no stack with this name.
    """
    parts = re.fullmatch(r"mixture(\d+)-(\d+)", name)
    return (read_name(name, molecules), None) if parts is None else (mixture(int(parts[1]), int(parts[2])), SETTINGS)


def main(arguments: list[str] | None = None) -> None:
    molecules = read_params(project_root() / "benchmark/params.yaml")["molecules"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stacks", nargs="+", default=STACKS, metavar="STACK", help="names of stacks")
    add_options(parser, "states")
    options = parser.parse_args(arguments)
    use_one_thread()
    for seed in options.seeds:
        for stack in options.stacks:
            settings, overrides = read_stack(stack, molecules)
            if has_rows(options.table, stack=stack, seed=seed):
                print(f"{stack}, seed {seed}: skipped, because its row is in {options.table}")
                continue
            known = simulate_once(resized(settings, options.box), stack, seed, options.out / f"{stack}-{seed}")
            cost = run_once(known, "em", seed, options.device, 0, 1.0, overrides)
            found, truth = known.match(Predictions.read(known.folder / "em"))
            number, real = read_run(known.folder / "em")["states"], truth.junk == 0
            row = {
                "stack": stack,
                "seed": seed,
                "images": len(truth.classes),
                "states": len(known.volumes),
                "found": number["states"],
                "volumes": number["volumes"],
                "reason": number["reason"],
                "accuracy": majority_accuracy(found.classes[real], truth.classes[real]),
                "seconds": round(cost["seconds"]),
                "device": cost["device"],
            }
            replace_rows(options.table, pd.DataFrame([row]), KEY)
            print(row, flush=True)
    plots.style()
    plots.save(plots.state_numbers(pd.read_csv(options.table)), options.figure, "True and found numbers of states")


if __name__ == "__main__":
    main()
