"""Warnings as users read them: one line, ``warning: …``, without the line of code that gave it."""

import warnings


def install() -> None:
    """Print every warning of this process in that form."""
    warnings.formatwarning = _one_line


def _one_line(message: Warning | str, *_args, **_more) -> str:
    return f"warning: {' '.join(str(message).split())}\n"
