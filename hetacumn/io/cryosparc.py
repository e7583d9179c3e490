"""Reading of a cryoSPARC particle table (.cs) into one flat table with RELION's column names."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped
from numpy.lib.format import MAGIC_PREFIX, read_array
from roma import rotvec_to_rotmat

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import refuse_pointer
from hetacumn.io.particle_table import GROUP
from hetacumn.physics.rotations import to_euler

#: RELION's column, cryoSPARC's field, and the factor from cryoSPARC's to RELION's unit.
_COLUMNS = [
    ("rlnDefocusU", "ctf/df1_A", 1.0),
    ("rlnDefocusV", "ctf/df2_A", 1.0),
    ("rlnDefocusAngle", "ctf/df_angle_rad", 180 / np.pi),
    ("rlnPhaseShift", "ctf/phase_shift_rad", 180 / np.pi),
    ("rlnVoltage", "ctf/accel_kv", 1.0),
    ("rlnSphericalAberration", "ctf/cs_mm", 1.0),
    ("rlnAmplitudeContrast", "ctf/amp_contrast", 1.0),
    ("rlnImagePixelSize", "blob/psize_A", 1.0),
]

LONGEST_HEADER = 2**20  # bytes; NumPy's limit of 10,000 bytes is less than the header after a classification into 16 classes
NUMBERS, TEXT = "fiu", "SU"  # kinds of NumPy dtypes
OPTIONAL = ("alignments3D", "ctf/anisomag", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/bfactor", "ctf/exp_group_id",
            "location")  # fmt: skip
IGNORED = {"ctf/trefoil_A": "this aberration", "ctf/tetra_A": "this aberration", "ctf/bfactor": "this envelope"}
#: Each field with the allowed kinds of its dtype and the shape of one value.
_EXPECTED: list[tuple[str, str, tuple[int, ...]]] = [
    ("blob/path", TEXT, ()), ("blob/idx", "iu", ()), ("blob/shape", "iu", (2,)),
    *((name, NUMBERS, ()) for _, name, _ in _COLUMNS),
    ("ctf/anisomag", NUMBERS, (4,)), ("ctf/tilt_A", NUMBERS, (2,)),
    ("ctf/trefoil_A", NUMBERS, (2,)), ("ctf/tetra_A", NUMBERS, (4,)),
    ("ctf/bfactor", NUMBERS, ()), ("ctf/exp_group_id", "iu", ()),
    ("location/micrograph_path", TEXT, ()), ("location/micrograph_shape", "iu", (2,)),
    ("location/center_x_frac", NUMBERS, ()), ("location/center_y_frac", NUMBERS, ()),
    ("alignments3D/split", "iu", ()),
    ("alignments3D/pose", NUMBERS, (3,)), ("alignments3D/shift", NUMBERS, (2,)), ("alignments3D/psize_A", NUMBERS, ()),
]  # fmt: skip


def load_rows(path: Path) -> Shaped[np.ndarray, " n"]:
    """Load the table of a .cs file as a structured array, with all its fields. No pickled object is loaded.

    Raises:
        HetacumnError: the file is not a .cs table.
    """
    refuse_pointer(path, "a cryoSPARC table")
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
                raise ValueError("it does not begin with the signature of a NumPy file")
            file.seek(0)
            rows = read_array(file, allow_pickle=False, max_header_size=LONGEST_HEADER)
    except Exception as error:  # NumPy's header parser raises errors of many types
        reason = "columns of Python objects" if "allow_pickle" in str(error) else " ".join(str(error).split())
        raise HetacumnError(f"{path}: not a cryoSPARC table ({reason}); expected a .cs file of particles") from error
    if rows.dtype.names is None or rows.ndim != 1:
        raise HetacumnError(f"{path}: not a cryoSPARC table (an array without columns); expected a .cs file of particles")
    return rows


def read_cs(path: Path) -> pd.DataFrame:
    """Read one row per particle: rlnImageName, CTF, pixel size and image size.

    The table also contains the angles, origins, half sets, exposure groups (as rlnOpticsGroup), micrographs and coordinates of
    the file.

    A cryoSPARC pose is a rotation vector from view to object. A cryoSPARC shift is RELION's origin, in pixels of
    ``alignments3D/psize_A``.

    Raises:
        HetacumnError: the file is not a .cs table, or a field is missing or has the wrong type or shape.
    """
    rows = load_rows(path)
    _check_fields(rows, path)
    fields = set(rows.dtype.names or ())
    names = [
        f"{i + 1:06d}@{stack}" for i, stack in zip(rows["blob/idx"].tolist(), _paths(rows, "blob/path", path), strict=True)
    ]
    table = pd.DataFrame({"rlnImageName": names})
    for relion, field, factor in _COLUMNS:
        table[relion] = rows[field].astype(np.float64) * factor
    if "ctf/anisomag" in fields:  # cryoSPARC stores the magnification matrix minus the identity
        for i in range(2):
            for j in range(2):
                table[f"rlnMagMat{i}{j}"] = rows["ctf/anisomag"][:, 2 * i + j].astype(np.float64) + (i == j)
    if "ctf/tilt_A" in fields:  # the product of Cs and the sine of the beam tilt
        cs_A, tilt_A = 1e7 * rows["ctf/cs_mm"].astype(np.float64)[:, None], rows["ctf/tilt_A"].astype(np.float64)
        wrong = ~(np.abs(tilt_A) <= np.abs(cs_A)).all(1)
        if wrong.any():
            row = int(wrong.argmax())
            raise HetacumnError(
                f"{path}: row {row + 1}: ctf/tilt_A is {tilt_A[row].tolist()}; expected at most Cs, {cs_A[row, 0]:g} Å"
            )
        sines = np.divide(tilt_A, cs_A, out=np.zeros_like(tilt_A), where=cs_A != 0)
        table[["rlnBeamTiltX", "rlnBeamTiltY"]] = 1e3 * np.arcsin(sines)
    if "alignments3D/split" in fields:  # 0 or 1
        table["rlnRandomSubset"] = rows["alignments3D/split"].astype(int) + 1
    for field, what in IGNORED.items():
        if field in fields and rows[field].any():
            warnings.warn(f"{path}: {field} is not 0, and {what} is ignored; export the particles to RELION", stacklevel=4)
    if "ctf/exp_group_id" in fields:
        table[GROUP] = rows["ctf/exp_group_id"].astype(np.int64)
    if "location/micrograph_path" in fields:
        table["rlnMicrographName"] = _paths(rows, "location/micrograph_path", path)
    if {"location/micrograph_shape", "location/center_x_frac", "location/center_y_frac"} <= fields:
        height_width = rows["location/micrograph_shape"].astype(np.float64)
        table["rlnCoordinateX"] = rows["location/center_x_frac"].astype(np.float64) * height_width[:, 1]
        table["rlnCoordinateY"] = rows["location/center_y_frac"].astype(np.float64) * height_width[:, 0]
    table["rlnImageSize"] = rows["blob/shape"][:, 0].astype(int)
    if "alignments3D/pose" in fields:
        rotations = rotvec_to_rotmat(torch.from_numpy(rows["alignments3D/pose"].astype(np.float64))).mT
        table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = to_euler(rotations).numpy()
    if "alignments3D/shift" in fields:
        pixel_A = rows["alignments3D/psize_A" if "alignments3D/psize_A" in fields else "blob/psize_A"]
        origins_A = rows["alignments3D/shift"] * pixel_A[:, None].astype(np.float64)
        table[["rlnOriginXAngst", "rlnOriginYAngst"]] = origins_A
    return table


def _check_fields(rows: Shaped[np.ndarray, " n"], path: Path) -> None:
    """Raise :class:`HetacumnError` if a field is missing or has the wrong type or shape."""
    fields = set(rows.dtype.names or ())
    for field, kinds, shape in _EXPECTED:
        if field not in fields and field.startswith(OPTIONAL):
            continue
        if field not in fields:
            raise HetacumnError(
                f"{path}: no column {field}; expected it for every particle "
                "(a table exported without its passthrough lacks columns)"
            )
        if rows.dtype[field].base.kind not in kinds or rows.dtype[field].shape != shape:
            raise HetacumnError(
                f"{path}: column {field} has values of type {rows.dtype[field]}; expected "
                f"{'text' if kinds == TEXT else f'{shape[0]} numbers' if shape else 'one number'} per particle"
            )


def _paths(rows: Shaped[np.ndarray, " n"], field: str, path: Path) -> list[str]:
    """Return the paths in a field, without the leading ``>`` of exported groups."""
    found = []
    for row, name in enumerate(rows[field].tolist(), 1):
        try:
            found.append((name.decode() if isinstance(name, bytes) else name).lstrip(">"))
        except UnicodeDecodeError:
            raise HetacumnError(f"{path}: row {row}: {field} is {name!r}; expected the name of a file") from None
    return found
