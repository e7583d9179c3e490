"""Errors that the package raises when the input, not the program, is at fault."""

from __future__ import annotations


class HetacumnError(Exception):
    """A mistake of the user: a bad file, row or parameter.

    The message is one line that names the fault, its place (file, row) and the expected value. The commands print it
    without a traceback. Subclasses belong in this module, where the runner looks for them.
    """
