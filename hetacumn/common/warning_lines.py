"""Warnings on one line, without the source line that Python prints by default."""

from __future__ import annotations

import warnings


def print_warnings_in_lines() -> None:
    """Print every warning of this process as ``warning: <text>``, on one line."""
    warnings.formatwarning = _one_line


def _one_line(message: Warning | str, *_args: object, **_more: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"
