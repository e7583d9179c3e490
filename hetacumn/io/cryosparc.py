"""Reading of a cryoSPARC particle table (.cs) into one flat table with RELION's column names."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from roma import rotvec_to_rotmat

from hetacumn.common.errors import HetacumnError
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

NUMBERS, TEXT = "fiu", "SU"  # kinds of NumPy dtypes
OPTIONAL = ("alignments3D", "ctf/anisomag", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A")
#: Each field with the allowed kinds of its dtype and the shape of one value.
_EXPECTED: list[tuple[str, str, tuple[int, ...]]] = [
    ("blob/path", TEXT, ()), ("blob/idx", "iu", ()), ("blob/shape", "iu", (2,)),
    *((name, NUMBERS, ()) for _, name, _ in _COLUMNS),
    ("ctf/anisomag", NUMBERS, (4,)), ("ctf/tilt_A", NUMBERS, (2,)),
    ("ctf/trefoil_A", NUMBERS, (2,)), ("ctf/tetra_A", NUMBERS, (4,)),
    ("alignments3D/split", "iu", ()),
    ("alignments3D/pose", NUMBERS, (3,)), ("alignments3D/shift", NUMBERS, (2,)), ("alignments3D/psize_A", NUMBERS, ()),
]  # fmt: skip


def read_cs(path: Path) -> pd.DataFrame:
    """Read one row per particle: rlnImageName, CTF, pixel size and image size, with angles and origins where present.

    A cryoSPARC pose is a rotation vector from view to object. A cryoSPARC shift is RELION's origin, in pixels of
    ``alignments3D/psize_A``.

    Raises:
        HetacumnError: the file is not a .cs table, or a field is missing or has the wrong type or shape.
    """
    try:
        rows = np.load(path, allow_pickle=False)
        fields = set(rows.dtype.names)
    except Exception as error:  # NumPy's header parser raises errors of many types
        raise HetacumnError(f"{path}: not a cryoSPARC table ({' '.join(str(error).split())})") from error
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
    stacks = [_text(name, path, i).lstrip(">") for i, name in enumerate(rows["blob/path"].tolist())]
    names = [f"{i + 1:06d}@{stack}" for i, stack in zip(rows["blob/idx"], stacks, strict=True)]
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
    for field in ("ctf/trefoil_A", "ctf/tetra_A"):
        if field in fields and rows[field].any():
            warnings.warn(
                f"{path}: {field} is not 0, and this aberration is ignored; export the particles to RELION", stacklevel=4
            )
    table["rlnImageSize"] = rows["blob/shape"][:, 0].astype(int)
    if "alignments3D/pose" in fields:
        rotations = rotvec_to_rotmat(torch.from_numpy(rows["alignments3D/pose"].astype(np.float64))).mT
        table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = to_euler(rotations).numpy()
    if "alignments3D/shift" in fields:
        pixel_A = rows["alignments3D/psize_A" if "alignments3D/psize_A" in fields else "blob/psize_A"]
        origins_A = rows["alignments3D/shift"] * pixel_A[:, None].astype(np.float64)
        table[["rlnOriginXAngst", "rlnOriginYAngst"]] = origins_A
    return table


def _text(name: bytes | str, path: Path, row: int) -> str:
    try:
        return name.decode() if isinstance(name, bytes) else name
    except UnicodeDecodeError:
        raise HetacumnError(f"{path}: row {row + 1}: blob/path is {name!r}; expected the name of a file") from None
