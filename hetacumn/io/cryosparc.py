"""CryoSPARC particle tables (.cs): read into one flat table with RELION's column names, and written with new alignments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from numpy.lib.format import MAGIC_PREFIX, read_array, write_array
from roma import rotmat_to_rotvec, rotvec_to_rotmat
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, refuse_pointer
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

LONGEST_HEADER = 2**20  # bytes; NumPy's default limit is 10,000, and a classification into 16 classes has a longer header
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

#: Fields of an alignment, for a table without alignments: dtype, shape and initial value.
_ALIGNMENT = {
    "split": ("<u4", (), 0), "shift": ("<f4", (2,), 0), "pose": ("<f4", (3,), 0), "psize_A": ("<f4", (), 0),
    **{name: ("<f4", (), 0) for name in ("error", "error_min", "resid_pow", "slice_pow", "image_pow", "cross_cor")},
    "alpha": ("<f4", (), 1), "weight": ("<f4", (), 0), "pose_ess": ("<f4", (), 0), "shift_ess": ("<f4", (), 0),
    "class_posterior": ("<f4", (), 1), "class": ("<u4", (), 0), "class_ess": ("<f4", (), 1),
}  # fmt: skip


def load_rows(path: Path) -> Shaped[np.ndarray, " n"]:
    """Load the table of a .cs file as a structured array with all its fields. The function loads no pickled object.

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

    The table also contains the angles, origins, half sets, exposure groups (as rlnOpticsGroup), micrographs and coordinates, if
    the file has them. If the file lacks fields, the function reads them from the passthrough file of the job
    (:func:`find_passthrough`), provided that the passthrough file contains all particles.

    A cryoSPARC pose is a rotation vector from view to object. A cryoSPARC shift is RELION's origin, in pixels of
    ``alignments3D/psize_A``.

    Raises:
        HetacumnError: the file is not a .cs table, or a field is missing or has the wrong type or shape.
    """
    rows = _with_passthrough(load_rows(path), path)
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


def find_passthrough(path: Path) -> Path | None:
    """Find the passthrough file of a cryoSPARC job: the fields that the job did not change; return None if there is no file.

    CryoSPARC writes the passthrough file to the folder of the particle table: ``J7_passthrough_particles_selected.cs`` for
    ``particles_selected.cs``, and ``J7_passthrough_particles.cs`` or ``J7_passthrough_particles_all_classes.cs`` for
    ``J7_012_particles.cs``.
    """
    kind = re.search(r"particles\w*$", path.stem)
    if kind is None or "passthrough" in path.stem:
        return None
    for name in (kind[0], "particles_all_classes"):
        if len(found := list(path.parent.glob(f"*passthrough_{name}.cs"))) == 1:
            return found[0]
    return None


def _with_passthrough(rows: Shaped[np.ndarray, " n"], path: Path) -> Shaped[np.ndarray, " n"]:
    """Add fields of the passthrough file that the table lacks; the uid identifies the particles in both files."""
    own, beside = rows.dtype.names or (), find_passthrough(path)
    if beside is None or "uid" not in own:
        return rows
    other = load_rows(beside)
    new = [name for name, *_ in _EXPECTED if name in (other.dtype.names or ()) and name not in own]
    if not new or "uid" not in (other.dtype.names or ()) or not np.isin(rows["uid"], other["uid"]).all():
        return rows
    order = np.argsort(other["uid"])
    other = other[order[np.searchsorted(other["uid"], rows["uid"], sorter=order)]]
    if needed := [name for name in new if not name.startswith(OPTIONAL)]:
        warnings.warn(f"{path}: {', '.join(needed)} are read from {beside.name}, by uid", stacklevel=5)
    return _extended(rows, {name: other[name] for name in new})


def _extended(rows: Shaped[np.ndarray, " n"], fields: Mapping[str, Shaped[np.ndarray, "n ..."]]) -> Shaped[np.ndarray, " n"]:
    """Return a structured array with additional fields after its own fields."""
    own = [(name, rows.dtype[name]) for name in rows.dtype.names or ()]
    extended = np.empty(len(rows), [*own, *((name, values.dtype, values.shape[1:]) for name, values in fields.items())])
    for name, _ in own:
        extended[name] = rows[name]
    for name, values in fields.items():
        extended[name] = values
    return extended


def write_aligned(
    path: Path,
    rows: Shaped[np.ndarray, " n"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_A: Float[Tensor, "n 2"],
    others: Mapping[str, Shaped[np.ndarray, " n"]],
) -> None:
    """Write rows of a .cs table with new alignments, atomically; all other fields keep their type, order and values.

    Args:
        path: the file to write.
        rows: rows of a .cs file, see :func:`load_rows`. If they have no ``alignments3D/pose``, the function adds the fields of
            an alignment after the other fields.
        rotations: rotations that map object to view.
        shifts_A: shifts (x, y) that move the image, in Å. The file contains minus the shift, in pixels of
            ``alignments3D/psize_A``.
        others: values of other fields of the alignment, such as ``class``, counted from 0. The function ignores a field that
            the table lacks.
    """
    fields, n = rows.dtype.names or (), len(rows)
    if "alignments3D/pose" not in fields:
        new = {f"alignments3D/{name}": np.full((n, *shape), value, dtype) for name, (dtype, shape, value) in _ALIGNMENT.items()}
        rows = _extended(rows, {name: values for name, values in new.items() if name not in fields})
    written, fields = rows.copy(), rows.dtype.names or ()
    pixel_A = rows["blob/psize_A"].astype(np.float64)
    if "alignments3D/psize_A" in fields:
        pixel_A = np.where(rows["alignments3D/psize_A"] > 0, rows["alignments3D/psize_A"], pixel_A)
        written["alignments3D/psize_A"] = pixel_A
    written["alignments3D/pose"] = rotmat_to_rotvec(rotations.mT.double()).cpu().numpy()
    values = {"shift": -shifts_A.double().cpu().numpy() / pixel_A[:, None], **others}
    for name, column in values.items():
        if f"alignments3D/{name}" in fields:
            written[f"alignments3D/{name}"] = column
    write_rows(path, written)


def write_rows(path: Path, rows: Shaped[np.ndarray, " n"]) -> None:
    """Write a structured array as a .cs file, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write_array(file, rows, allow_pickle=False)


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
