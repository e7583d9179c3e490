"""The states and the continuous motions of a molecule, as sets of atoms, from a specification.

The specification of a molecule is a dict, as in params.yaml::

    {structure: adk, states: [open, closed]}                         the two crystal structures
    {structure: adk, path: [0.0, 0.5, 1.0]}                          points on the path from open (0) to closed (1)
    {structure: ribosome, left_out: [[], [small/head], [small]]}     one list of missing parts for each state
    {structure: spliceosome, arm_b_deg: [0, 50], top_deg: [0, 40]}   one state for every pair of angles
    {structure: igg, fab_deg: [0, 90, 180]}                          an antibody, one state for every angle of one Fab
    {structure: igg, linkers: 100}                                   100 random conformations of the linker of one Fab
    {structure: ring, copies: [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]}    a ring of adk: for each state the progress of each copy
    {structure: complexes, species: [1EXB, 1N2C]}                    a mixture of different molecules, one state for each
    {structure: complexes, species: 8}                               the first 8 of the 45 complexes

``arm_b_deg``, ``top_deg`` and ``fab_deg`` are rotations of parts about their hinges, in degrees; ``top_deg`` varies fastest.
The Fab of ``igg`` turns about the axis from Cα of residue 213 to Cα of residue 242 of its heavy chain.
:mod:`hetacumn.simulation.linker` explains ``linkers``. ``left_out`` names a whole (``small``), a part (``small/head``) or a
molecule of a part (``small/head/uS3``). Species are entries of the PDB. The data folder lists them in a fixed order, so that
the first 8 are among the first 16.
:func:`load_motion` explains the specification of a continuous motion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hetacumn.common.errors import HetacumnError
from hetacumn.simulation.linker import random_linkers
from hetacumn.simulation.molecules import Atoms, check_known, load_adk, load_complexes, load_hinged, load_residues, load_ring

HINGED = {"spliceosome": ("arm_b", "top"), "igg": ("fab",)}  #: the parts of each structure that turn about a hinge
STATE_KEYS: dict[str, list[set[str]]] = {
    "adk": [{"states"}, {"path"}],
    "ribosome": [{"left_out"}],
    "spliceosome": [{"arm_b_deg", "top_deg"}],
    "igg": [{"fab_deg"}, {"linkers"}],
    "ring": [{"copies"}],
    "complexes": [{"species"}],
}
MOTION_KEYS: dict[str, list[set[str]]] = {"adk": [set()], **{name: STATE_KEYS[name][:1] for name in HINGED}}
#: For each key: the type of the entries of its list, and the name of this type in messages.
ENTRY_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "states": (str, "names"),
    "left_out": (list, "lists of parts"),
    "path": ((int, float), "numbers"),
    "arm_b_deg": ((int, float), "numbers"),
    "top_deg": ((int, float), "numbers"),
    "fab_deg": ((int, float), "numbers"),
    "copies": (list, "lists of numbers from 0 (open) to 1 (closed)"),
    "species": (str, "names, or their number"),
}
COUNTS = ("species", "linkers")  #: keys whose value may be a number of states
ADK_STATES = {"open": 0.0, "closed": 1.0}  # positions on the path of adk


def load_states(spec: dict, data_dir: Path | str) -> list[Atoms]:
    """Load the discrete states of a molecule in a common frame, whose origin is the centre of mass of the first state.

    The species of a mixture have no common frame; the centre of mass of each species is at the origin. The axis of a ring is
    the z axis, and the centre of mass of an open copy is at z = 0.

    Args:
        spec: the specification, as in the docstring of this module.
        data_dir: the folder of the .npz files of the structures.

    Raises:
        HetacumnError: a file is missing, or a structure, key, state, part or species is unknown.
    """
    structure = _check_spec(spec)
    if structure == "complexes":
        return load_complexes(data_dir, spec["species"])
    if structure == "ring":
        return [load_ring(data_dir, progress) for progress in spec["copies"]]
    if "linkers" in spec:
        states = random_linkers(data_dir, spec["linkers"])
    elif structure == "adk":
        for name in spec.get("states", []):
            check_known("state of adk", name, set(ADK_STATES))
        move = load_adk(data_dir)
        coordinates = spec["path"] if "path" in spec else [ADK_STATES[name] for name in spec["states"]]
        states = [move(torch.tensor(float(t))) for t in coordinates]
    elif structure == "ribosome":
        atoms = load_residues(data_dir, "ribosome")
        states = [atoms.without(parts) for parts in spec["left_out"]]
    else:
        turn = load_hinged(data_dir, structure, HINGED[structure])
        angles = itertools.product(*(spec[f"{part}_deg"] for part in HINGED[structure]))
        states = [turn(*torch.tensor(degrees).float()) for degrees in angles]
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
    first to the last angle of each list; the two parts move independently. ``{structure: igg, fab_deg: […]}`` likewise turns
    the Fab from the first to the last angle. The origin is the centre of mass at progress 0.

    Raises:
        HetacumnError: an error of :func:`load_states`, or the structure has no motion.
    """
    structure = _check_spec(spec, motion=True)
    motion = _adk_motion(data_dir) if structure == "adk" else _hinged_motion(spec, data_dir)
    origin = motion.move(torch.zeros(len(motion.names))).centre_of_mass()
    return Motion(motion.names, lambda t: motion.move(t).moved(-origin))


def _adk_motion(data_dir: Path | str) -> Motion:
    close = load_adk(data_dir)
    return Motion(("adk",), lambda t: close(t[..., 0]))


def _hinged_motion(spec: dict, data_dir: Path | str) -> Motion:
    names = HINGED[spec["structure"]]
    turn = load_hinged(data_dir, spec["structure"], names)
    ends = [(spec[f"{name}_deg"][0], spec[f"{name}_deg"][-1]) for name in names]
    return Motion(names, lambda t: turn(*(start + (end - start) * t[..., i] for i, (start, end) in enumerate(ends))))


def _check_spec(spec: dict, motion: bool = False) -> str:
    """Return the structure of a specification; raise HetacumnError for unknown structures, wrong keys and wrong values."""
    alternatives = MOTION_KEYS if motion else STATE_KEYS
    structure = check_known("structure", spec.get("structure"), set(alternatives))
    known, given = alternatives[structure], set(spec) - {"structure"}
    if given not in known:
        expected = " or ".join(" and ".join(sorted(keys)) or "no other key" for keys in known)
        raise HetacumnError(f"structure {structure} has the keys {sorted(given)}; expected {expected}")
    for key in given:
        entries = spec[key]
        if key in COUNTS and isinstance(entries, int):
            if entries < 1:
                raise HetacumnError(f"{key} of {structure} is {entries}; expected at least 1")
            continue
        if key not in ENTRY_TYPES:
            raise HetacumnError(f"{key} of {structure} is {entries!r}; expected a number")
        entry_type, plural = ENTRY_TYPES[key]
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, entry_type) for entry in entries):
            raise HetacumnError(f"{key} of {structure} is {entries!r}; expected a list of {plural}")
    if not all(0 <= t <= 1 for t in spec.get("path", [])):
        raise HetacumnError(f"path of {structure} is {spec['path']!r}; expected numbers from 0 (open) to 1 (closed)")
    for progress in spec.get("copies", []):
        if len(progress) < 2 or not all(isinstance(t, int | float) and 0 <= t <= 1 for t in progress):
            raise HetacumnError(
                f"copies of {structure} is {progress!r}; expected two or more numbers from 0 (open) to 1 (closed)"
            )
    return structure
