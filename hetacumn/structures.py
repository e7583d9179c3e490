"""Atomic models: states and motions of a molecule → atoms; atoms → density, atoms → projections.

The density of an atom, or of a residue that one point stands for, is an isotropic Gaussian whose integral is
its weight. Densities and images hold the mass per voxel and per pixel: their sum is the sum of the weights.
Both are splatted in real space, independently of the slices that the decoder takes.

A molecule's spec is a dict, as in params.yaml:

    {structure: adk, states: [open, closed]}                         the two crystal structures
    {structure: adk, path: [0.0, 0.5, 1.0]}                          on the way from open (0) to closed (1)
    {structure: ribosome, left_out: [[], [small/head], [small]]}     a state a list of missing parts
    {structure: spliceosome, arm_b_deg: [0, 50], top_deg: [0, 40]}   every pair of angles; top varies fastest
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import roma
import torch
from torch import Tensor

from hetacumn.errors import HetacumnError

ATOM_WIDTH_A, AMINO_ACID_WIDTH_A, NUCLEOTIDE_WIDTH_A = 2.0, 3.0, 4.0  # standard deviations
ATOMIC_NUMBER = {"C": 6, "N": 7, "O": 8, "S": 16}
STATE_KEYS = {"adk": [{"states"}, {"path"}], "ribosome": [{"left_out"}],
              "spliceosome": [{"arm_b_deg", "top_deg"}]}
MOTION_KEYS = {"adk": [set()], "spliceosome": [{"arm_b_deg", "top_deg"}]}
ENTRIES = {"states": (str, "names"), "left_out": (list, "lists of parts"), "path": ((int, float), "numbers"),
           "arm_b_deg": ((int, float), "numbers"), "top_deg": ((int, float), "numbers")}
ADK_STATES = {"open": 0.0, "closed": 1.0}  # the ends of its path


@dataclass(frozen=True)
class Atoms:
    """Atoms, or residues as points, of one state of a molecule.

    positions_A: (n, 3), or (..., n, 3) with a state an image; xyz in Å, object frame, origin at the box's
    centre. weights: (n,) scattering mass. widths_A: (n,) standard deviation of the Gaussian.
    parts: (n,) name of the part that each belongs to.
    """

    positions_A: Tensor
    weights: Tensor
    widths_A: Tensor
    parts: np.ndarray

    def centre_of_mass(self) -> Tensor:
        """Weighted mean position, (..., 3) in Å."""
        return self.weights @ self.positions_A / self.weights.sum()

    def moved(self, shift_A: Tensor) -> "Atoms":
        """The same atoms shifted by (3,) Å."""
        return replace(self, positions_A=self.positions_A + shift_A)

    def to(self, device: torch.device | str) -> "Atoms":
        """The same on another device."""
        on_it = {name: getattr(self, name).to(device) for name in ("positions_A", "weights", "widths_A")}
        return replace(self, **on_it)

    def without(self, names: list[str]) -> "Atoms":
        """Leave out the named parts; `small` stands for all of `small/…`. Raises HetacumnError if unknown."""
        wholes = np.array([part.split("/")[0] for part in self.parts])
        for name in names:
            _check_known("part", name, {*self.parts.tolist(), *wholes.tolist()})
        keep = ~(np.isin(self.parts, names) | np.isin(wholes, names))
        positions = self.positions_A[..., keep, :]
        return Atoms(positions, self.weights[keep], self.widths_A[keep], self.parts[keep])


def load_states(spec: dict, data_dir: Path | str) -> list[Atoms]:
    """Load the discrete states of a molecule, in one frame: the first state's centre of mass is the origin.

    spec: as in this module's docstring. data_dir: the folder of the .npz files.
    Raises HetacumnError for a missing file and for unknown structures, keys, states and parts.
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
    """A continuous motion: the ``names`` of what moves, and ``move`` from ``t`` (..., len(names)) in [0, 1], how far each
    has gone, to :class:`Atoms` with positions (..., n, 3)."""

    names: tuple[str, ...]
    move: Callable[[Tensor], Atoms]


def load_motion(spec: dict, data_dir: Path | str) -> Motion:
    """Load a continuous motion.

    spec: {structure: adk} goes from open to closed; {structure: spliceosome, arm_b_deg: […], top_deg: […]}
    from the first to the last angles, each arm by itself. The centre of mass at t = 0 is the origin throughout.
    Raises HetacumnError as load_states does, and for a structure that has no motion.
    """
    structure = _check_spec(spec, motion=True)
    if structure == "adk":
        close, names = _load_adk(data_dir), ("adk",)

        def move(t: Tensor) -> Atoms:
            return close(t[..., 0])
    else:
        turn, names = _load_spliceosome(data_dir), ("arm_b", "top")
        ends = [(spec[f"{name}_deg"][0], spec[f"{name}_deg"][-1]) for name in names]

        def move(t: Tensor) -> Atoms:
            return turn(*(start + (end - start) * t[..., i] for i, (start, end) in enumerate(ends)))

    origin = move(torch.zeros(len(names))).centre_of_mass()
    return Motion(names, lambda t: move(t).moved(-origin))


def rotate_about(positions_A: Tensor, point_A: Tensor, axis: Tensor, angle_deg: Tensor) -> Tensor:
    """Turn (n, 3) positions by right-handed angles (...,) about an axis (3,) through a point (3,).

    Lengths in Å, xyz; returns (..., n, 3).
    """
    axis = axis / axis.norm()
    rotation = roma.rotvec_to_rotmat(torch.deg2rad(angle_deg)[..., None] * axis)
    return (positions_A - point_A) @ rotation.mT + point_A


def _check_spec(spec: dict, motion: bool = False) -> str:
    """Return the spec's structure; raise HetacumnError if it or a key is unknown or a key is missing."""
    structure = spec.get("structure")
    alternatives = MOTION_KEYS if motion else STATE_KEYS
    _check_known("structure", structure, set(alternatives))
    wanted, given = alternatives[structure], set(spec) - {"structure"}
    if given not in wanted:
        expected = " or ".join(" and ".join(sorted(keys)) or "no other key" for keys in wanted)
        raise HetacumnError(f"structure {structure} takes {expected}, not {sorted(given)}")
    for key in given:
        (kind, called), entries = ENTRIES[key], spec[key]
        if not isinstance(entries, list) or not entries or not all(isinstance(e, kind) for e in entries):
            raise HetacumnError(f"{key} of {structure} must be a list of {called}, not {entries!r}")
    if not all(0 <= t <= 1 for t in spec.get("path", [])):
        raise HetacumnError(f"path of {structure} runs from 0 (open) to 1 (closed), not {spec['path']!r}")
    return structure


def _check_known(kind: str, name: object, known: set[str]) -> None:
    if name not in known:
        raise HetacumnError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


def _read(data_dir: Path | str, name: str) -> dict[str, np.ndarray]:
    path = Path(data_dir) / f"{name}.npz"
    if not path.exists():
        raise HetacumnError(f"{path} is missing; `dvc pull` fetches it")
    with np.load(path) as stored:
        return dict(stored)


def _load_adk(data_dir: Path | str) -> Callable[[Tensor], Atoms]:
    """A function from t (...,), 0 open and 1 closed, to the heavy atoms, linear between the stored states."""
    stored = _read(data_dir, "adk")
    path, coordinate = torch.from_numpy(stored["path_xyz_A"]), torch.from_numpy(stored["path_coordinate"])
    weights = torch.tensor([float(ATOMIC_NUMBER[element]) for element in stored["element"]])
    atoms = Atoms(path[0], weights, torch.full_like(weights, ATOM_WIDTH_A), np.full(len(weights), "adk"))

    def move(t: Tensor) -> Atoms:
        after = torch.searchsorted(coordinate, t).clamp(1, len(coordinate) - 1)
        start, end = coordinate[after - 1], coordinate[after]
        fraction = ((t - start) / (end - start))[..., None, None]
        return replace(atoms, positions_A=torch.lerp(path[after - 1], path[after], fraction))

    return move


def _load_residues(data_dir: Path | str, name: str) -> Atoms:
    """The residues of a large molecule as points, as deposited."""
    stored = _read(data_dir, name)
    widths = np.where(stored["is_nucleotide"], NUCLEOTIDE_WIDTH_A, AMINO_ACID_WIDTH_A).astype(np.float32)
    positions, weights = torch.from_numpy(stored["xyz_A"]), torch.from_numpy(stored["weight"])
    return Atoms(positions, weights, torch.from_numpy(widths), stored["part"])


def _load_spliceosome(data_dir: Path | str) -> Callable[[Tensor, Tensor], Atoms]:
    """A function from the angles (...,) of arm B and the top, in degrees, to the molecule so turned."""
    stored = _read(data_dir, "spliceosome")
    atoms = _load_residues(data_dir, "spliceosome").without(["rest"])
    arms = [(torch.from_numpy(atoms.parts == arm), torch.from_numpy(stored[f"{arm}_hinge_A"]),
             torch.from_numpy(stored[f"{arm}_axis"])) for arm in ("arm_b", "top")]

    def turn(*angles_deg: Tensor) -> Atoms:
        positions = atoms.positions_A.expand(*angles_deg[0].shape, -1, -1).clone()
        for (chosen, hinge, axis), angle in zip(arms, angles_deg, strict=True):
            positions[..., chosen, :] = rotate_about(atoms.positions_A[chosen], hinge, axis, angle)
        return replace(atoms, positions_A=positions)

    return turn
