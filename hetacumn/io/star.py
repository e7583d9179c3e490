"""Particle tables: reading of RELION 3.1 and 3.0 STAR and of cryoSPARC .cs files, writing of RELION 3.1 STAR.

The table in memory always has RELION 3.1's form and column names: one row per particle, one row per optics group, origins in Å.
Error messages count rows from 1.
"""

from __future__ import annotations

import linecache
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import starfile
from jaxtyping import Float, Int, Shaped
from starfile.writer import StarWriter

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path
from hetacumn.io.cryosparc import read_cs
from hetacumn.io.numbers import parse_numbers
from hetacumn.io.stacks import read_layout

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGINS = ["rlnOriginXAngst", "rlnOriginYAngst"]
GROUP = "rlnOpticsGroup"
LARGEST_PIXEL_A = 1e4  # no microscope has larger pixels
GROUP_COLUMNS = ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]  # RELION 3.1: one value per optics group
STACK_SUFFIXES = (".mrcs", ".mrc")
TEXT_COLUMNS = [
    "rlnImageName",
    "rlnMicrographName",
    "rlnImageOriginalName",
    "rlnOpticsGroupName",
    "rlnGroupName",
    "rlnTomoName",
    "rlnTomoParticleName",
    "rlnReconstructImageName",
    "rlnBeamTiltGroupName",
]


@dataclass(frozen=True)
class ParticleTable:
    """A particle table in RELION 3.1's form.

    - ``path``: file that the table was read from, for messages.
    - ``particles``: one row per particle.
    - ``optics``: one row per optics group.
    """

    path: Path
    particles: pd.DataFrame
    optics: pd.DataFrame

    def __len__(self) -> int:
        return len(self.particles)

    def has(self, column: str) -> bool:
        """Return whether the particles or the optics groups have a column."""
        return column in self.particles or column in self.optics

    def numbers(self, column: str, default: float | None = None) -> Float[np.ndarray, " n"]:
        """Return the values of a column as float64, one for each particle.

        Values of the optics table are looked up by optics group. ``default`` replaces a missing column.

        Raises:
            HetacumnError: the column is missing and has no default, or a value is not a finite number.
        """
        if not self.has(column):
            if default is None:
                raise HetacumnError(f"{self.path}: no column {column}; expected it for every particle")
            return np.full(len(self), float(default))
        if column in self.particles:
            return _finite(self.particles[column], column, f"{self.path}: row")
        values = _finite(self.optics[column], column, f"{self.path}: optics table, row")
        return values[self._group_rows()]

    def lists(self, column: str) -> list[list[float]]:
        """Return lists of numbers, such as ``[0.1,-0.2]``, one for each particle; the column must exist.

        Raises:
            HetacumnError: a value is not a list of finite numbers.
        """
        own = column in self.particles
        texts = [str(value) for value in (self.particles if own else self.optics)[column]]
        where, parsed = "row" if own else "optics table, row", {text: parse_numbers(text) for text in set(texts)}
        for row, text in enumerate(texts):
            if parsed[text] is None:
                raise HetacumnError(f"{self.path}: {where} {row + 1}: {column} is {text}; expected numbers, such as [0.1,-0.2]")
        found = [parsed[text] or [] for text in texts]
        return found if own else [found[group] for group in self._group_rows()]

    def _group_rows(self) -> Int[np.ndarray, " n"]:
        """Return the row of the optics table for each particle."""
        if GROUP not in self.particles:
            raise HetacumnError(f"{self.path}: no column {GROUP}; expected it for every particle, as there is an optics table")
        groups = _finite(self.optics[GROUP], GROUP, f"{self.path}: optics table, row").astype(int)
        group_of = self.numbers(GROUP).astype(int)
        unknown = ~np.isin(group_of, groups)
        if unknown.any():
            row = int(unknown.argmax())
            raise HetacumnError(
                f"{self.path}: row {row + 1}: optics group {group_of[row]} is not in the optics "
                f"table; expected one of {', '.join(map(str, groups))}"
            )
        order = np.argsort(groups)
        return order[np.searchsorted(groups, group_of, sorter=order)]

    def pixel_sizes(self) -> Float[np.ndarray, " n"]:
        """Return the pixel size of each image in Å. Raises HetacumnError if a value is out of range."""
        sizes = self.numbers("rlnImagePixelSize")
        wrong = (sizes <= 0) | (sizes > LARGEST_PIXEL_A)
        if wrong.any():
            row = int(wrong.argmax())
            raise HetacumnError(
                f"{self.path}: row {row + 1}: pixel size {sizes[row]:g} Å; expected more than 0, up to {LARGEST_PIXEL_A:g}"
            )
        return sizes

    def names(self) -> pd.Index:
        """Return the rlnImageName of each image. Raises HetacumnError if two rows have the same name."""
        names = pd.Index(self.particles["rlnImageName"].astype(str))
        if not names.is_unique:
            row = int(names.duplicated().argmax())
            raise HetacumnError(f"{self.path}: row {row + 1}: {names[row]} is named twice; expected every image once")
        return names

    def images(self) -> tuple[Shaped[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the stack name of each image, as written in the table, and the image's index in the stack, from 0.

        Raises:
            HetacumnError: a value of rlnImageName does not have the form number@stack.
        """
        names = self.particles["rlnImageName"].astype(str)
        parts = names.str.extract(r"^(\d+)@(.+)$")
        wrong = parts[0].isna().to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise HetacumnError(
                f"{self.path}: row {row + 1}: rlnImageName is {names.iloc[row]!r}; "
                "expected number@stack, such as 000001@particles.mrcs"
            )
        return parts[1].to_numpy(dtype=object), parts[0].astype(np.int64).to_numpy() - 1


#: CTF corrections that a table may declare. They cannot be undone, and the likelihood needs uncorrected images.
CORRECTIONS = {
    "rlnCtfDataAreCtfPremultiplied": "CTF-premultiplied",
    "rlnCtfDataArePhaseFlipped": "phase-flipped",
}  # fmt: skip


def read_table(path: Path | str) -> ParticleTable:
    """Read a particle table from a RELION 3.1 or 3.0 STAR file, a cryoSPARC .cs file, or a bare stack (by suffix).

    RELION 3.0 states origins in pixels, and either rlnPixelSize or the pixel size of the detector and the magnification, whose
    ratio is the pixel size. The function converts these columns to those of RELION 3.1. A bare stack (``x.mrcs``) needs a CSV
    table of the same name in the same folder (``x.csv``): one line per image, in the order of the stack, with RELION's column
    names (rlnDefocusU, …, rlnImagePixelSize).

    Raises:
        HetacumnError: the file is missing, is not a particle table, or lacks a column; or the table marks images as
            CTF-premultiplied or phase-flipped.
    """
    table = _read(Path(path))
    for column, correction in CORRECTIONS.items():
        wrong = table.numbers(column, 0.0) != 0
        if wrong.any():
            row = int(wrong.argmax()) + 1
            raise HetacumnError(
                f"{path}: row {row}: {column} marks the image as {correction}; expected images without CTF correction"
            )
    return table


def _read(path: Path) -> ParticleTable:
    if not path.is_file():
        raise HetacumnError(f"{path}: no such file; expected a STAR or .cs file of particles")
    if path.suffix in (".cs", *STACK_SUFFIXES):
        optics, particles = group_optics(path, read_cs(path) if path.suffix == ".cs" else _read_bare_stack(path))
        return ParticleTable(path, particles, optics)
    linecache.clearcache()  # starfile reads through linecache, which would return the content of an earlier failed read
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # starfile warns of an empty block, which is an error below
            blocks = starfile.read(path, always_dict=True, parse_as_string=TEXT_COLUMNS)
    except Exception as error:  # starfile raises errors of any type
        raise HetacumnError(f"{path}: not a STAR file ({' '.join(str(error).split())})") from error
    tables = {name: pd.DataFrame([b]) if isinstance(b, dict) else b for name, b in blocks.items()}
    named = [table for table in tables.values() if "rlnImageName" in table]
    if not named:
        raise HetacumnError(f"{path}: no column rlnImageName; expected a STAR file of particles")
    particles = named[0]
    if len(particles) == 0:
        raise HetacumnError(f"{path}: no rows; expected one row for each particle")
    if "optics" not in tables:
        optics, particles = group_optics(path, _from_relion30(path, particles))
        return ParticleTable(path, particles, optics)
    for column in (GROUP, "rlnImagePixelSize"):
        if column not in tables["optics"]:
            raise HetacumnError(f"{path}: no column {column} in the optics table; expected it as in RELION 3.1")
    return ParticleTable(path, particles, tables["optics"])


def write_table(path: Path | str, particles: pd.DataFrame, optics: pd.DataFrame) -> None:
    """Write a RELION 3.1 STAR file atomically: the optics table first, numbers with six decimals, no date."""
    writer = StarWriter({"optics": optics, "particles": particles}, float_format="%.6f")
    with atomic_path(path) as temporary, open(temporary, "w") as file:
        file.write("# version 30001\n\n")  # the first line of RELION 3.1
        file.writelines(line + "\n" for line in writer.data_block_generator())


def group_optics(path: Path, particles: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide a flat table into RELION 3.1's tables ``(optics, particles)``.

    Particles with equal voltage, Cs, amplitude contrast, pixel size and (where known) image size form one optics group. These
    columns move to the optics table.

    Raises:
        HetacumnError: one of these columns is missing or contains a value that is not a finite number.
    """
    for column in GROUP_COLUMNS:
        if column not in particles:
            raise HetacumnError(f"{path}: no column {column}; expected it for every particle")
    shared = [*GROUP_COLUMNS, "rlnImagePixelSize", *(["rlnImageSize"] if "rlnImageSize" in particles else [])]
    for column in shared:
        _finite(particles[column], column, f"{path}: row")
    codes = particles.groupby(shared, sort=False).ngroup().to_numpy() + 1
    first = ~pd.Series(codes).duplicated().to_numpy()
    optics = particles.loc[first, shared].reset_index(drop=True)
    optics.insert(0, GROUP, codes[first])
    optics.insert(1, "rlnOpticsGroupName", [f"opticsGroup{g}" for g in codes[first]])
    optics["rlnImageDimensionality"] = 2
    rest = particles.drop(columns=[*shared, GROUP], errors="ignore").copy()
    rest[GROUP] = codes
    return optics, rest


def _read_bare_stack(path: Path) -> pd.DataFrame:
    """Return one row per image of a bare stack, with the optics from the CSV table of the same name."""
    beside, count = path.with_suffix(".csv"), read_layout(path).shape[0]
    if not beside.is_file():
        raise HetacumnError(
            f"{beside}: no such file; expected the optics of {path.name}, one line for each image, with "
            f"columns rlnDefocusU, rlnDefocusV, rlnDefocusAngle, {', '.join(GROUP_COLUMNS)}, "
            "rlnImagePixelSize"
        )
    try:
        table = pd.read_csv(beside)
    except (ValueError, UnicodeDecodeError) as error:
        raise HetacumnError(f"{beside}: not a table ({' '.join(str(error).split())})") from error
    if len(table) != count:
        raise HetacumnError(f"{beside}: {len(table)} rows; expected {count}, one for each image of {path.name}")
    if "rlnImagePixelSize" not in table:
        raise HetacumnError(f"{beside}: no column rlnImagePixelSize; expected it for every image")
    table["rlnImageName"] = [f"{i + 1:06d}@{path.name}" for i in range(count)]
    return table


def _from_relion30(path: Path, particles: pd.DataFrame) -> pd.DataFrame:
    """Convert the pixel size and the origins from RELION 3.0's to RELION 3.1's columns."""
    particles = particles.copy()
    if "rlnPixelSize" in particles:
        pixel = _finite(particles.pop("rlnPixelSize"), "rlnPixelSize", f"{path}: row")
    elif "rlnDetectorPixelSize" in particles and "rlnMagnification" in particles:
        detector_um, magnification = (
            _finite(particles.pop(column), column, f"{path}: row") for column in ("rlnDetectorPixelSize", "rlnMagnification")
        )
        pixel = detector_um * 1e4 / magnification
    else:
        raise HetacumnError(
            f"{path}: no optics table (RELION 3.1), and no columns rlnMagnification and "
            "rlnDetectorPixelSize (RELION 3.0); expected the pixel size in one of these ways"
        )
    particles["rlnImagePixelSize"] = pixel
    for old, new in zip(("rlnOriginX", "rlnOriginY"), ORIGINS, strict=True):
        if old in particles:
            particles[new] = _finite(particles.pop(old), old, f"{path}: row") * pixel
    return particles


def _finite(column: pd.Series, name: str, where: str) -> Float[np.ndarray, " n"]:
    """Convert a column to float64. Raises HetacumnError if a value is not a finite number."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        raise HetacumnError(f"{where} {row + 1}: {name} is {column.iloc[row]}; expected a finite number")
    return values
