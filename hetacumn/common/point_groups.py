"""The names of point groups; :mod:`hetacumn.physics.symmetry` computes their rotations."""

from __future__ import annotations

import re

from hetacumn.common.errors import HetacumnError

GROUP_NAMES = "Cn, Dn, T, O, I or I1 to I4, with n from 1 to 99"
_NAME = re.compile(r"[CD][1-9]\d?|T|O|I[1-4]?")


def group_name(name: str) -> str:
    """Return the name of a point group in capital letters; like RELION, the function accepts small letters.

    Raises:
        HetacumnError: ``name`` is not one of :data:`GROUP_NAMES`.
    """
    if not _NAME.fullmatch(name.upper()):
        raise HetacumnError(f"symmetry is {name!r}; expected {GROUP_NAMES}")
    return name.upper()
