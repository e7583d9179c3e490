"""Errors that the package raises when the input, not the program, is at fault."""

from __future__ import annotations


class HetacumnError(Exception):
    """A mistake of the user: a bad file, row or parameter.

    The message is one line that names the place (file, row), the fault and the expected value. The commands print the message
    without a traceback. Define subclasses in this module: ``hetacumn.run.notebook`` looks them up here by name.
    """
