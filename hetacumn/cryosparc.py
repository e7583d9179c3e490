"""cryoSPARC's .cs particle tables, as one flat table with RELION's column names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from roma import rotvec_to_rotmat

from hetacumn.errors import HetacumnError
from hetacumn.so3 import to_euler

#: RELION's column, cryoSPARC's, and the factor between them.
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


def read_cs(path: Path) -> pd.DataFrame:
    """One row a particle: rlnImageName, CTF, pixel size, image size; angles and origins where it is aligned.

    A cryoSPARC pose is a rotation vector from view to object, its shift RELION's origin in pixels of
    ``alignments3D/psize_A``.

    Raises:
        HetacumnError: not a .cs file, or a field missing.
    """
    try:
        rows = np.load(path)
        fields = set(rows.dtype.names)
    except (OSError, ValueError, TypeError) as error:
        raise HetacumnError(f"{path}: not a cryoSPARC table ({error})") from error
    for field in ["blob/path", "blob/idx", "blob/shape", *(name for _, name, _ in _COLUMNS)]:
        if field not in fields:
            raise HetacumnError(f"{path}: no column {field}; expected it for every particle "
                                "(a table exported without its passthrough lacks columns)")
    stacks = np.char.lstrip(np.char.decode(rows["blob/path"]), ">")
    names = [f"{i + 1:06d}@{stack}" for i, stack in zip(rows["blob/idx"], stacks, strict=True)]
    table = pd.DataFrame({"rlnImageName": names})
    for relion, field, factor in _COLUMNS:
        table[relion] = rows[field].astype(np.float64) * factor
    table["rlnImageSize"] = rows["blob/shape"][:, 0].astype(int)
    if "alignments3D/pose" in fields:
        rotations = rotvec_to_rotmat(torch.from_numpy(rows["alignments3D/pose"].astype(np.float64))).mT
        table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = to_euler(rotations).numpy()
    if "alignments3D/shift" in fields:
        pixel_A = rows["alignments3D/psize_A" if "alignments3D/psize_A" in fields else "blob/psize_A"]
        origins_A = rows["alignments3D/shift"] * pixel_A[:, None].astype(np.float64)
        table[["rlnOriginXAngst", "rlnOriginYAngst"]] = origins_A
    return table
