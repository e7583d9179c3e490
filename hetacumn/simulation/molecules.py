"""The molecules of the simulator: their atoms as stored in the data folder, and the motions of their parts."""

from __future__ import annotations

import math
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
RING_SPACING_A = 45.0  # distance of neighbouring copies in a ring
ATOMIC_NUMBER = {"C": 6, "N": 7, "O": 8, "S": 16}
AMINO_ACID_WEIGHT = 52.5  # mean sum of the atomic numbers of the heavy atoms of a residue, where only Cα is known


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
        levels = [part.split("/") for part in self.parts.tolist()]
        wholes = [{"/".join(level[: depth + 1]) for depth in range(len(level))} for level in levels]
        known = set().union(*wholes)
        for name in names:
            check_known("part", name, known)
        keep = np.array([whole.isdisjoint(names) for whole in wholes])
        positions = self.positions_A[..., keep, :]
        return Atoms(positions, self.weights[keep], self.widths_A[keep], self.parts[keep])


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


def check_known(kind: str, name: object, known: set[str]) -> str:
    """Return ``name``; raise HetacumnError if it is not in ``known``."""
    if not isinstance(name, str) or name not in known:
        raise HetacumnError(f"unknown {kind} {name!r}; expected one of {', '.join(sorted(known))}")
    return name


def read_structure(data_dir: Path | str, name: str) -> dict[str, np.ndarray]:
    """Read the arrays of a structure in the data folder. Raises :class:`HetacumnError` if the file is missing."""
    path = Path(data_dir) / f"{name}.npz"
    if not path.exists():
        raise HetacumnError(f"{path}: no such file; expected an atomic model (`dvc pull` fetches it)")
    with np.load(path) as stored:
        return dict(stored)


def load_adk(data_dir: Path | str) -> Callable[[Tensor], Atoms]:
    """Return a function from the progress (0 open, 1 closed) to the heavy atoms, linear between the stored states."""
    stored = read_structure(data_dir, "adk")
    path, coordinate = torch.from_numpy(stored["path_xyz_A"]), torch.from_numpy(stored["path_coordinate"])
    atoms = _with_elements(path[0], stored["element"], np.full(len(stored["element"]), "adk"))

    def move(t: Float[Tensor, "*batch"]) -> Atoms:
        after = torch.searchsorted(coordinate, t).clamp(1, len(coordinate) - 1)
        start, end = coordinate[after - 1], coordinate[after]
        fraction = ((t - start) / (end - start))[..., None, None]
        return replace(atoms, positions_A=torch.lerp(path[after - 1], path[after], fraction))

    return move


def load_ring(data_dir: Path | str, progress: list[float]) -> Atoms:
    """Load a ring of copies of adenylate kinase about the z axis, with the progress (0 open, 1 closed) of each copy.

    The first copy is on the x axis, the second one follows towards the y axis. The centres of neighbours are
    :data:`RING_SPACING_A` apart. A ring of ``n`` copies with equal progress has the symmetry ``Cn``.
    """
    move, count = load_adk(data_dir), len(progress)
    radius_A = RING_SPACING_A / (2 * math.sin(math.pi / count))
    out = torch.tensor([radius_A, 0.0, 0.0]) - move(torch.tensor(0.0)).centre_of_mass()
    copies = [move(torch.tensor(float(t))).moved(out) for t in progress]
    origin, axis = torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])
    angles = torch.arange(count) * (360.0 / count)
    positions = [rotate_about(copy.positions_A, origin, axis, angle) for copy, angle in zip(copies, angles, strict=True)]
    weights, widths, parts = (torch.cat([copy.weights for copy in copies]), torch.cat([copy.widths_A for copy in copies]),
                              np.repeat([f"copy{k}" for k in range(count)], len(copies[0].weights)))  # fmt: skip
    return Atoms(torch.cat(positions), weights, widths, parts)


def load_residues(data_dir: Path | str, name: str) -> Atoms:
    """Load the residues of a large molecule as points, in the deposited conformation.

    The part of a residue ends with the name of its molecule (``small/head/uS3``) if the file contains these names.
    """
    stored = read_structure(data_dir, name)
    parts = stored["part"]
    if "chain_name" in stored:
        parts = np.char.add(np.char.add(parts, "/"), stored["chain_name"])
    widths = np.where(stored["is_nucleotide"], NUCLEOTIDE_WIDTH_A, AMINO_ACID_WIDTH_A).astype(np.float32)
    positions, weights = torch.from_numpy(stored["xyz_A"]), torch.from_numpy(stored["weight"])
    return Atoms(positions, weights, torch.from_numpy(widths), parts)


def load_hinged(data_dir: Path | str, name: str, arms: tuple[str, ...]) -> Callable[..., Atoms]:
    """Return a function from the angles of the arms in degrees to the atoms with these parts rotated about their hinges."""
    stored = read_structure(data_dir, name)
    if "element" in stored:
        atoms = heavy_atoms(stored)
    else:
        atoms = load_residues(data_dir, name).without(["rest"])
    turns = [
        (
            torch.from_numpy(atoms.parts == arm),
            torch.from_numpy(stored[f"{arm}_hinge_A"]),
            torch.from_numpy(stored[f"{arm}_axis"]),
        )
        for arm in arms
    ]

    def turn(*angles_deg: Float[Tensor, "*batch"]) -> Atoms:
        positions = atoms.positions_A.expand(*angles_deg[0].shape, -1, -1).clone()
        for (chosen, hinge, axis), angle in zip(turns, angles_deg, strict=True):
            positions[..., chosen, :] = rotate_about(atoms.positions_A[chosen], hinge, axis, angle)
        return replace(atoms, positions_A=positions)

    return turn


def load_complexes(data_dir: Path | str, species: list[str] | int) -> list[Atoms]:
    """Load protein complexes by the names of their PDB entries, or the first of the file; each residue is a point at its Cα.

    Every complex has its own centre of mass at the origin. The order of the file is fixed, so that the first 8 complexes are
    among the first 16.

    Raises:
        HetacumnError: the file is missing, a name is unknown, or the number of species is not in the file.
    """
    stored = read_structure(data_dir, "complexes")
    names, ends = stored["species"].tolist(), stored["residues"].cumsum()
    chosen = names[:species] if isinstance(species, int) else species
    if isinstance(species, int) and not 1 <= species <= len(names):
        expected = f"a number from 1 to {len(names)}, or a list of names"
        raise HetacumnError(f"species of complexes is {species}; expected {expected}")
    complexes = []
    for name in chosen:
        place = names.index(check_known("species of complexes", name, set(names)))
        rows = slice(ends[place] - stored["residues"][place], ends[place])
        positions = torch.from_numpy(stored["xyz_tenth_A"][rows]).float() / 10
        weights = torch.full((len(positions),), AMINO_ACID_WEIGHT)
        widths = torch.full_like(weights, AMINO_ACID_WIDTH_A)
        atoms = Atoms(positions, weights, widths, np.full(len(positions), name))
        complexes.append(atoms.moved(-atoms.centre_of_mass()))
    return complexes


def heavy_atoms(stored: dict[str, np.ndarray]) -> Atoms:
    """Return the heavy atoms of a structure in the deposited conformation."""
    return _with_elements(torch.from_numpy(stored["xyz_A"]), stored["element"], stored["part"])


def _with_elements(
    positions_A: Float[Tensor, "n 3"], elements: Shaped[np.ndarray, " n"], parts: Shaped[np.ndarray, " n"]
) -> Atoms:
    weights = torch.tensor([float(ATOMIC_NUMBER[element]) for element in elements])
    return Atoms(positions_A, weights, torch.full_like(weights, ATOM_WIDTH_A), parts)
