"""Write the cost of each run of the main pipeline: ``python -m hetacumn.run.timings results figures/timings.csv``.

Seconds, memory and device differ between machines and between runs. They therefore have their own table, separate from the
scores.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_table
from hetacumn.common.project import read_params

COLUMNS = ["dataset", "method", "train_seconds", "predict_particles_per_second", "peak_memory_mb", "device"]


def read_timings(results: Path | str, datasets: list[str]) -> pd.DataFrame:
    """Tabulate the runs of ``datasets``, from ``<results>/<dataset>/<method>/run.json``."""
    return pd.DataFrame([
        {"dataset": dataset, "method": path.parent.name, **json.loads(path.read_text())}
        for dataset in datasets for path in sorted((Path(results) / dataset).glob("*/run.json"))
    ], columns=COLUMNS)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Write the table for the datasets in params.yaml; return the exit status."""
    if len(arguments) != 2:
        print("error: expected two arguments: the folder of the results and the CSV file to write", file=sys.stderr)
        return 2
    results, path = arguments
    try:
        table = read_timings(results, list(read_params()["datasets"]))
        if table.empty:
            raise HetacumnError(
                f"{results}: no run.json of any dataset of params.yaml; expected finished runs, <dataset>/<method>/run.json"
            )
        write_table(path, table)
    except HetacumnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: timings of {len(table)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
