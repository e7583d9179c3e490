"""Random conformations of the linker between one Fab and the rest of an antibody, as in the set IgG-RL of CryoBench.

CryoBench (Jeon et al. 2024, arXiv 2408.05526) samples the backbone dihedrals of the linker as in disordered peptides, and
rejects conformations with clashes. Here the linker is the upper hinge of one heavy chain: five residues between the cysteine
that binds the light chain and the cysteines that bind the other heavy chain. For each residue of a conformation, the module
samples a basin of the Ramachandran plot, and normal deviations of both angles from the middle of this basin.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from hetacumn.simulation.molecules import Atoms, heavy_atoms, read_structure, rotate_about

BEFORE, LINKER, AFTER = 230, (232, 235, 236, 237, 238), 239  #: consecutive residues of chain H of 1HZH, in its numbering
BASINS_DEG = ((-70.0, 145.0), (-125.0, 135.0), (-70.0, -40.0))  #: (phi, psi) of polyproline II, beta strand, alpha helix
BASIN_SHARES = (0.45, 0.3, 0.25)  #: share of each basin in a disordered peptide
BASIN_WIDTH_DEG = 20.0  # standard deviation of both angles
LEAST_DISTANCE_A = 3.0  # closest approach of heavy atoms of the Fab and of the rest
SEED = 0  # the conformations do not depend on the seed of a simulation
N, CA, C = 0, 1, 2  # places of the backbone atoms in a residue


def random_linkers(data_dir: Path | str, count: int) -> list[Atoms]:
    """Return ``count`` random conformations of the antibody in ``igg.npz``, in which the Fab ``fab`` moves and the rest stays.

    The first conformations of a longer list are those of a shorter list.

    Raises:
        HetacumnError: the file is missing.
    """
    stored = read_structure(data_dir, "igg")
    atoms, chain, number = heavy_atoms(stored), stored["chain"], stored["residue_number"]
    fab = (chain == "L") | ((chain == "H") & (number <= BEFORE))
    linker = (chain == "H") & np.isin(number, LINKER)
    moving, still = torch.from_numpy(fab), torch.from_numpy(~fab & ~linker)
    residues, rest = linker_rows(stored), cKDTree(atoms.positions_A[still].numpy())
    draw, found = np.random.default_rng(SEED), list[Atoms]()
    while len(found) < count:
        basins = np.array(BASINS_DEG)[draw.choice(len(BASINS_DEG), len(LINKER), p=BASIN_SHARES)]
        angles_deg = basins + draw.normal(0, BASIN_WIDTH_DEG, basins.shape)
        positions = bend(atoms.positions_A, moving, residues, angles_deg)
        nearest, _ = rest.query(positions[moving].numpy(), distance_upper_bound=LEAST_DISTANCE_A)
        if np.isinf(nearest).all():
            found.append(replace(atoms, positions_A=positions))
    return found


def linker_rows(stored: dict[str, np.ndarray]) -> list[Int[np.ndarray, " _"]]:
    """Return the rows of the atoms of each residue from :data:`BEFORE` to :data:`AFTER`; a residue begins with N, Cα and C."""
    chain, number = stored["chain"], stored["residue_number"]
    return [np.flatnonzero((chain == "H") & (number == residue)) for residue in (BEFORE, *LINKER, AFTER)]


def backbone_angles_deg(positions_A: Float[Tensor, "n 3"], residues: list[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "k 2"]:
    """Return phi and psi in degrees of each residue except the first and the last."""
    triples = zip(residues, residues[1:], residues[2:], strict=False)
    return np.array([
        (_dihedral_deg(positions_A[[before[C], *own[:3]]]), _dihedral_deg(positions_A[[*own[:3], after[N]]]))
        for before, own, after in triples
    ])  # fmt: skip


def bend(
    positions_A: Float[Tensor, "n 3"],
    moving: Bool[Tensor, " n"],
    residues: list[Int[np.ndarray, " _"]],
    angles_deg: Float[np.ndarray, "k 2"],
) -> Float[Tensor, "n 3"]:
    """Turn phi and psi of each residue except the first and the last to the given angles in degrees.

    The atoms ``moving`` and the linker before a bond turn with it. All atoms after the linker stay.
    """
    positions, ahead = positions_A.clone(), moving.clone()
    turns_deg = torch.from_numpy(backbone_angles_deg(positions_A, residues) - angles_deg).float()
    for rows, (phi, psi) in zip(residues[1:-1], turns_deg, strict=True):
        for start, end, angle in ((N, CA, phi), (CA, C, psi)):
            point, axis = positions[rows[start]], positions[rows[end]] - positions[rows[start]]
            positions[ahead] = rotate_about(positions[ahead], point, axis, angle)
            if start == N:
                ahead[rows] = True
                ahead[rows[C : C + 2]] = False  # C and O are behind the bond from Cα to C
        ahead[rows] = True
    return positions


def _dihedral_deg(points_A: Float[Tensor, "4 3"]) -> float:
    """Return the dihedral angle of four points in degrees, with the sign of the IUPAC convention."""
    before, axis, after = points_A.double().diff(dim=0)
    left, right = torch.linalg.cross(before, axis), torch.linalg.cross(axis, after)
    return float(torch.rad2deg(torch.atan2(axis.norm() * (before @ right), left @ right)))
