"""The names of point groups; :mod:`hetacumn.physics.symmetry` computes their rotations."""

from __future__ import annotations

import re

GROUP_NAMES = "Cn, Dn, T, O, I or I1 to I4, with n from 1 to 99"
_NAME = re.compile(r"[CD][1-9]\d?|T|O|I[1-4]?")


def is_group(name: str) -> bool:
    """Return whether ``name`` is the name of a point group, in capital letters."""
    return _NAME.fullmatch(name) is not None
