"""The sets of cryobench.py, with the image formation of CryoBench (Jeon et al. 2024, arXiv 2408.05526).

CryoBench simulates images of 256 px of 1.5 Å with white noise at an SNR of 0.01, and crops them to 128 px of 3 Å. The
variance of its clean images below the new Nyquist frequency gives an SNR of 0.034 at 128 px; all sets here have this SNR. Views
are uniform. Shifts are uniform up to 7.8 % of the box in x and in y. The CTF parameters are those of EMPIAR-10180.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from mixtures import SETTINGS
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.simulation.settings import Simulation

BOX, PIXEL_A, SNR, SHIFT_PX = 128, 3.0, 0.034, 10.0  # settings of the simulated images
CTF_TABLE = "ctf_empiar10180.csv"
CONFORMATIONS = 100  # number of conformations of the antibody
LATE_PROTEINS = [f"large/core/{name}" for name in ("uL16", "uL30", "eL8", "eL20", "eL21", "eL24", "eL29", "eL40", "eL42")]
PLATFORM = [f"small/body/{name}" for name in ("eS1", "uS2", "uS5", "uS11", "eS21", "eS26", "eS27")]


@dataclass(frozen=True)
class CryobenchSet:
    """A set: specification of the molecule, weights of the states, and number and settings of the classes of a run."""

    molecule: dict
    classes: int
    weights: tuple[float, ...] | None = None
    overrides: dict | None = None

    def simulation(self, images: int) -> Simulation:
        """Return the settings of the simulation of a number of images."""
        return Simulation(self.molecule, particles=images, box=BOX, pixel_A=PIXEL_A, snr=SNR, shift_px=SHIFT_PX,
                          weights=self.weights, ctf_table=CTF_TABLE)  # fmt: skip


def assembly_states() -> list[list[str]]:
    """Return the missing parts of 16 states: four states of the small subunit, with or without 5S RNP and late proteins."""
    small = [[], ["small/head"], ["small/head", *PLATFORM], ["small", "lso2"]]
    return [[*a, *b, *c] for a, b, c in itertools.product(small, ([], ["large/5s_rnp"]), ([], LATE_PROTEINS))]


def read_set(name: str) -> CryobenchSet:
    """Return a set by its name. Raises :class:`HetacumnError` for an unknown name."""
    if name == "igg-1d":
        angles = [round(360 / CONFORMATIONS * i, 3) for i in range(CONFORMATIONS)]
        return CryobenchSet({"structure": "igg", "fab_deg": angles}, classes=8)
    if name == "igg-rl":
        return CryobenchSet({"structure": "igg", "linkers": CONFORMATIONS}, classes=8)
    if name == "assembly":
        states = assembly_states()
        sizes = np.arange(len(states), 0, -1)
        return CryobenchSet({"structure": "ribosome", "left_out": states}, len(states), tuple((sizes / sizes.sum()).tolist()))
    if parts := re.fullmatch(r"mixture-(\d+)", name):
        species = int(parts[1])
        return CryobenchSet({"structure": "complexes", "species": species}, species, overrides=SETTINGS)
    raise HetacumnError(f"unknown set {name!r}; expected igg-1d, igg-rl, assembly or mixture-<N>")


def spread_rows(classes: Int[Tensor, " n"], count: int) -> list[int]:
    """Return ``count`` rows that are spread evenly over the images, which are sorted by their conformations."""
    order = classes.argsort(stable=True)
    return order[torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()].tolist()


def spread_labels(classes: Int[Tensor, " n"], count: int) -> list[int]:
    """Return at most ``count`` conformations that have images, spread evenly."""
    labels = classes.unique()
    return labels[:: -(-len(labels) // count)].tolist()
