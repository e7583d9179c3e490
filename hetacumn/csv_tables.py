"""Tables written as CSV files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hetacumn.project import atomic_path


def write_table(path: Path | str, table: pd.DataFrame, digits: int = 6) -> None:
    """Write a table as CSV without its index, fractions to so many significant digits, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{digits}g")
