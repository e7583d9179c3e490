"""Calibration of the stop sign: the settled share of each class against the share of its images at the true pose.

The name of a stack is `<molecule>-snr<SNR in units of 0.001>-<images>`, with a molecule of benchmark/params.yaml. With the
suffix `-junk`, 40 % of the images contain no particle, and training looks for one more class. For each stack and seed the
script simulates the images, trains `em`, predicts all images, and compares the settled shares with the truth. It writes
benchmark/stop_sign.csv, with one row per predicted class:

- `state`: the true state that is matched with the class, from 1; 0 for a class without a state.
- `found`: at least half of the images of the state (of the class without a state) are within 10° of the true pose, in a frame
  of their own.
- `warned`: the prediction warned of the class.
- `settled`: settled share of the class; empty if the class has too few images.
- `true_share`: share of the images of the class within 10° of the true pose; junk has no true pose.

Training uses fewer pose searches than by default; with --complete it uses the default settings. A run whose rows are in the
table is not repeated; delete its rows to score it again, and its folder in results/benchmark/stop_sign to run it again.

Usage, after `make data`: python benchmark/stop_sign.py
A quick trial: python benchmark/stop_sign.py --stacks adk-snr100-600 adk-snr2-600 --out /tmp/trial --table /tmp/trial/t.csv
  --figure /tmp/trial/figure.png
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace

import numpy as np
import pandas as pd
from simulated_runs import add_options, resized, run_once, simulate_once, use_one_thread

from hetacumn import plots
from hetacumn.common.errors import HetacumnError
from hetacumn.common.project import project_root, read_params
from hetacumn.common.run_files import read_run
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.evaluation.scores import match_classes, pose_errors
from hetacumn.evaluation.tables import has_rows, replace_rows
from hetacumn.io.star import read_table
from hetacumn.particles.predictions import Predictions
from hetacumn.physics.rotations import NEAR_DEG
from hetacumn.prediction.trust import DETERMINED, TRUST, ClassTrust
from hetacumn.simulation.settings import Realism, Simulation

KEY = ["stack", "seed"]
COLUMNS = [*KEY, "state", "found", "warned", "settled", "true_share", "images", "half_map_A", "seconds"]
FOUND = 0.5  # least share of true poses of a state that is found
JUNK_SHARE = 0.4
STACKS = [
    "adk-snr100-600", "adk-snr30-1500", "adk-snr10-3000", "ribosome-snr100-900", "ribosome-snr30-1500",
    "spliceosome-snr100-1500", "spliceosome-snr30-3000", "adk-snr100-1000-junk",
    "adk-snr10-200", "adk-snr5-300", "adk-snr2-1500", "adk-snr1-1000", "ribosome-snr10-200", "ribosome-snr2-1000",
    "spliceosome-snr10-300", "spliceosome-snr2-1500",
]  # fmt: skip
LIGHT = {"train": {"ab_initio": {"routes": ["classes"], "faint": {"early_radii": [0.35], "last_radii": [0.45, 0.45]}}}}


def read_name(name: str, molecules: dict) -> Simulation:
    """Return the settings of a stack.

    Raises:
        HetacumnError: the name is not the name of a stack.
    """
    parts = re.fullmatch(r"([a-z]+)-snr(\d+)-(\d+)(-junk)?", name)
    if parts is None or parts[1] not in molecules:
        expected = f"<molecule>-snr<number>-<images>, with a molecule of {', '.join(molecules)}"
        raise HetacumnError(f"unknown stack {name!r}; expected {expected}")
    settings = Simulation.from_params({**molecules[parts[1]], "snr": int(parts[2]) / 1000, "particles": int(parts[3])})
    return replace(settings, realism=Realism(junk_share=JUNK_SHARE)) if parts[4] else settings


def near_share(predictions: Predictions, known: SimulatedDataset, images: np.ndarray, rows: np.ndarray) -> float:
    """Compute the share of ``images`` within 10° of the true pose, in their own frame; junk counts as wrong.

    ``rows`` are the rows of all predictions in the truth.
    """
    real = images[(known.truth.junk[rows[images]] == 0).numpy()]
    if not len(real):
        return 0.0
    errors_deg, _ = pose_errors(predictions.rotations[real], known.truth.rotations[rows[real]])
    return float((errors_deg < NEAR_DEG).sum()) / len(images)


def tabulate_shares(known: SimulatedDataset, method: str) -> pd.DataFrame:
    """Tabulate the shares of a run, one row per predicted class."""
    predictions = Predictions.read(known.folder / method)
    rows = read_table(known.star).names().get_indexer(pd.Index(predictions.names))
    classes, states = predictions.classes.numpy(), known.truth.classes[rows].numpy()
    real = (known.truth.junk[rows] == 0).numpy()
    states_of = match_classes(classes[real], states[real])
    table = []
    for k, facts in enumerate(read_run(known.folder / method)[TRUST]):
        trust = ClassTrust(**facts)
        own = (classes == k).nonzero()[0]
        share = near_share(predictions, known, own, rows) if len(own) else 0.0
        state = int(states_of[k]) if k < len(states_of) and states_of[k] < len(known.volumes) else -1
        of_state = share if state < 0 else near_share(predictions, known, (real & (states == state)).nonzero()[0], rows)
        table.append(
            {
                "state": state + 1,
                "found": of_state >= FOUND,
                "warned": not trust.is_determined,
                "settled": trust.settled,
                "true_share": share,
                "images": trust.images,
                "half_map_A": trust.half_map_A,
            }
        )
    return pd.DataFrame(table).sort_values("state", ignore_index=True)


def main(arguments: list[str] | None = None) -> None:
    molecules = read_params(project_root() / "benchmark/params.yaml")["molecules"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stacks", nargs="+", default=STACKS, metavar="STACK", help="names of stacks")
    parser.add_argument("--complete", action="store_true", help="train with the default settings")
    add_options(parser, "stop_sign")
    options = parser.parse_args(arguments)
    use_one_thread()
    for seed in options.seeds:
        for stack in options.stacks:
            settings = resized(read_name(stack, molecules), options.box)
            if has_rows(options.table, stack=stack, seed=seed):
                print(f"{stack}, seed {seed}: skipped, because its rows are in {options.table}")
                continue
            known = simulate_once(settings, stack, seed, options.out / f"{stack}-{seed}")
            classes = len(known.volumes) + (settings.realism.junk_share > 0)
            cost = run_once(known, "em", seed, options.device, classes, 1.0, None if options.complete else LIGHT)
            rows = tabulate_shares(known, "em").assign(stack=stack, seed=seed, seconds=round(cost["seconds"]))[COLUMNS]
            replace_rows(options.table, rows, KEY)
            print(rows.to_string(index=False), flush=True)
    table = pd.read_csv(options.table)
    right = (table["warned"] != table["found"]).sum()
    print(f"the warning is right for {right} of {len(table)} classes")
    plots.style()
    plots.save(plots.settled_shares(table, DETERMINED, FOUND), options.figure, "Settled and true shares of poses")


if __name__ == "__main__":
    main()
