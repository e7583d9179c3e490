"""Atomic models: the states and the continuous motions of a molecule, as sets of atoms.

The specification of a molecule is a dict, as in params.yaml::

    {structure: adk, states: [open, closed]}                         the two crystal structures
    {structure: adk, path: [0.0, 0.5, 1.0]}                          points on the path from open (0) to closed (1)
    {structure: ribosome, left_out: [[], [small/head], [small]]}     one list of missing parts for each state
    {structure: spliceosome, arm_b_deg: [0, 50], top_deg: [0, 40]}   one state for every pair of angles

``arm_b_deg`` and ``top_deg`` are rotations of two parts about their hinges, in degrees; ``top_deg`` varies fastest.
:func:`load_motion` explains the specification of a continuous motion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hetacumn.common.errors import HetacumnError

ATOM_WIDTH_A, AMINO_ACID_WIDTH_A, NUCLEOTIDE_WIDTH_A = 2.0, 3.0, 4.0  # standard deviations of the Gaussians
ATOMIC_NUMBER = {"C": 6, "N": 7, "O": 8, "S": 16}
STATE_KEYS: dict[str, list[set[str]]] = {
    "adk": [{"states"}, {"path"}],
    "ribosome": [{"left_out"}],
    "spliceosome": [{"arm_b_deg", "top_deg"}],
}
MOTION_KEYS: dict[str, list[set[str]]] = {"adk": [set()], "spliceosome": [{"arm_b_deg", "top_deg"}]}
#: For each key: the type of the entries of its list, and the name of this type in messages.
ENTRY_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "states": (str, "names"),
    "left_out": (list, "lists of parts"),
    "path": ((int, float), "numbers"),
    "arm_b_deg": ((int, float), "numbers"),
    "top_deg": ((int, float), "numbers"),
}
ADK_STATES = {"open": 0.0, "closed": 1.0}  # positions on the path of adk


@dataclass(frozen=True)
class Atoms:
    """The atoms (or residues as points) of a molecule, in one state or in one state for each image.

    - ``positions_A``: positions (x, y, z) in the frame of the object, in Å, with the origin at the centre of the box.
    - ``weights``: scattering mass: the atomic number, or its sum over the heavy atoms of a residue.
    - ``widths_A``: standard deviation of the Gaussian of each atom, in Å.
    - ``parts``: name of the part of the molecule to which each atom belongs.
    """

    positions_A: Float[Tensor, "*batch n 3"]
    weights: Float[Tensor, " n"]
    widths_A: Float[Tensor, " n"]
    parts: Shaped[np.ndarray, " n"]

    def centre_of_mass(self) -> Float[Tensor, "*batch 3"]:
        """Return the mean position in Å, weighted by ``weights``."""
        return self.weights @ self.positions_A / self.weights.sum()

    def moved(self, shift_A: Float[Tensor, " 3"]) -> Atoms:
        """Return the atoms shifted by a vector in Å."""
        return replace(self, positions_A=self.positions_A + shift_A)

    def to(self, device: torch.device | str) -> Atoms:
        """Copy to another device."""
        return Atoms(self.positions_A.to(device), self.weights.to(device), self.widths_A.to(device), self.parts)

    def without(self, names: list[str]) -> Atoms:
        """Return the atoms without the named parts; ``small`` includes all ``small/…``.

        Raises HetacumnError for an unknown name.
        """
        wholes = np.array([part.split("/")[0] for part in self.parts])
        for name in names:
            _check_known("part", name, {*self.parts.tolist(), *wholes.tolist()})
        keep = ~(np.isin(self.parts, names) | np.isin(wholes, names))
        positions = self.positions_A[..., keep, :]
        return Atoms(positions, self.weights[keep], self.widths_A[keep], self.parts[keep])


def load_states(spec: dict, data_dir: Path | str) -> list[Atoms]:
    """Load the discrete states of a molecule in a common frame, whose origin is the centre of mass of the first state.

    Args:
        spec: the specification, as in the docstring of this module.
        data_dir: the folder of the .npz files of the structures.

    Raises:
        HetacumnError: a file is missing, or a structure, key, state or part is unknown.
    """
    structure = _check_spec(spec)
    if structure == "adk":
        for name in spec.get("states", []):
            _check_known("state of adk", name, set(ADK_STATES))
        move = _load_adk(data_dir)
        coordinates = spec["path"] if "path" in spec else [ADK_STATES[name] for name in spec["states"]]
        states = [move(torch.tensor(float(t))) for t in coordinates]
    elif structure == "ribosome":
        atoms = _load_residues(data_dir, "ribosome")
        states = [atoms.without(parts) for parts in spec["left_out"]]
    else:
        turn = _load_spliceosome(data_dir)
        angles = itertools.product(spec["arm_b_deg"], spec["top_deg"])
        states = [turn(torch.tensor(float(arm_b)), torch.tensor(float(top))) for arm_b, top in angles]
    origin = states[0].centre_of_mass()
    return [state.moved(-origin) for state in states]


@dataclass(frozen=True)
class Motion:
    """A continuous motion.

    - ``names``: names of the moving parts.
    - ``move``: function from the progress of each part in [0, 1], of shape ``(..., len(names))``, to :class:`Atoms` with
      positions of shape ``(..., n, 3)``.
    """

    names: tuple[str, ...]
    move: Callable[[Tensor], Atoms]


def load_motion(spec: dict, data_dir: Path | str) -> Motion:
    """Load a continuous motion.

    ``{structure: adk}`` moves from open to closed. ``{structure: spliceosome, arm_b_deg: […], top_deg: […]}`` moves from the
    first to the last angle of each list; the two parts move independently. The origin is the centre of mass at progress 0.

    Raises:
        HetacumnError: an error of :func:`load_states`, or the structure has no motion.
    """
    structure = _check_spec(spec, motion=True)
    motion = _adk_motion(data_dir) if structure == "adk" else _spliceosome_motion(spec, data_dir)
    origin = motion.move(torch.zeros(len(motion.names))).centre_of_mass()
    return Motion(motion.names, lambda t: motion.move(t).moved(-origin))


def _adk_motion(data_dir: Path | str) -> Motion:
    close = _load_adk(data_dir)
    return Motion(("adk",), lambda t: close(t[..., 0]))


def _spliceosome_motion(spec: dict, data_dir: Path | str) -> Motion:
    turn, names = _load_spliceosome(data_dir), ("arm_b", "top")
    ends = [(spec[f"{name}_deg"][0], spec[f"{name}_deg"][-1]) for name in names]
    return Motion(names, lambda t: turn(*(start + (end - start) * t[..., i] for i, (start, end) in enumerate(ends))))


def rotate_about(
    positions_A: Float[Tensor, "n 3"],
    point_A: Float[Tensor, " 3"],
    axis: Float[Tensor, " 3"],
    angle_deg: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch n 3"]:
    """Rotate positions (x, y, z in Å) about an axis through a point, by right-handed angles in degrees."""
    axis = axis / axis.norm()
    rotation = roma.rotvec_to_rotmat(torch.deg2rad(angle_deg)[..., None] * axis)
    return (positions_A - point_A) @ rotation.mT + point_A


def _check_spec(spec: dict, motion: bool = False) -> str:
    """Return the structure of a specification; raise HetacumnError for unknown structures, wrong keys and wrong values."""
    alternatives = MOTION_KEYS if motion else STATE_KEYS
    structure = _check_known("structure", spec.get("structure"), set(alternatives))
    known, given = alternatives[structure], set(spec) - {"structure"}
    if given not in known:
        expected = " or ".join(" and ".join(sorted(keys)) or "no other key" for keys in known)
        raise HetacumnError(f"structure {structure} has the keys {sorted(given)}; expected {expected}")
    for key in given:
        (entry_type, plural), entries = ENTRY_TYPES[key], spec[key]
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, entry_type) for entry in entries):
            raise HetacumnError(f"{key} of {structure} is {entries!r}; expected a list of {plural}")
    if not all(0 <= t <= 1 for t in spec.get("path", [])):
        raise HetacumnError(f"path of {structure} is {spec['path']!r}; expected numbers from 0 (open) to 1 (closed)")
    return structure


def _check_known(kind: str, name: object, known: set[str]) -> str:
    """Return ``name``; raise HetacumnError if it is not in ``known``."""
    if not isinstance(name, str) or name not in known:
        raise HetacumnError(f"unknown {kind} {name!r}; expected one of {', '.join(sorted(known))}")
    return name


def _read(data_dir: Path | str, name: str) -> dict[str, np.ndarray]:
    path = Path(data_dir) / f"{name}.npz"
    if not path.exists():
        raise HetacumnError(f"{path}: no such file; expected an atomic model (`dvc pull` fetches it)")
    with np.load(path) as stored:
        return dict(stored)


def _load_adk(data_dir: Path | str) -> Callable[[Tensor], Atoms]:
    """Return a function from the progress (0 open, 1 closed) to the heavy atoms, linear between the stored states."""
    stored = _read(data_dir, "adk")
    path, coordinate = torch.from_numpy(stored["path_xyz_A"]), torch.from_numpy(stored["path_coordinate"])
    weights = torch.tensor([float(ATOMIC_NUMBER[element]) for element in stored["element"]])
    atoms = Atoms(path[0], weights, torch.full_like(weights, ATOM_WIDTH_A), np.full(len(weights), "adk"))

    def move(t: Float[Tensor, "*batch"]) -> Atoms:
        after = torch.searchsorted(coordinate, t).clamp(1, len(coordinate) - 1)
        start, end = coordinate[after - 1], coordinate[after]
        fraction = ((t - start) / (end - start))[..., None, None]
        return replace(atoms, positions_A=torch.lerp(path[after - 1], path[after], fraction))

    return move


def _load_residues(data_dir: Path | str, name: str) -> Atoms:
    """Load the residues of a large molecule as points, in the deposited conformation."""
    stored = _read(data_dir, name)
    widths = np.where(stored["is_nucleotide"], NUCLEOTIDE_WIDTH_A, AMINO_ACID_WIDTH_A).astype(np.float32)
    positions, weights = torch.from_numpy(stored["xyz_A"]), torch.from_numpy(stored["weight"])
    return Atoms(positions, weights, torch.from_numpy(widths), stored["part"])


def _load_spliceosome(data_dir: Path | str) -> Callable[..., Atoms]:
    """Return a function from the angles of arm B and of the top, in degrees, to the atoms with these parts rotated."""
    stored = _read(data_dir, "spliceosome")
    atoms = _load_residues(data_dir, "spliceosome").without(["rest"])
    arms = [
        (
            torch.from_numpy(atoms.parts == arm),
            torch.from_numpy(stored[f"{arm}_hinge_A"]),
            torch.from_numpy(stored[f"{arm}_axis"]),
        )
        for arm in ("arm_b", "top")
    ]

    def turn(*angles_deg: Float[Tensor, "*batch"]) -> Atoms:
        positions = atoms.positions_A.expand(*angles_deg[0].shape, -1, -1).clone()
        for (chosen, hinge, axis), angle in zip(arms, angles_deg, strict=True):
            positions[..., chosen, :] = rotate_about(atoms.positions_A[chosen], hinge, axis, angle)
        return replace(atoms, positions_A=positions)

    return turn
