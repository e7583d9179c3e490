"""Output of a notebook on the terminal, line by line."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

PROGRESS_EVERY_SECONDS = 10.0


@runtime_checkable
class TextTarget(Protocol):
    """What takes text, such as a terminal or a log."""

    def write(self, text: str, /) -> object:
        """Take a text."""

    def flush(self) -> object:
        """Pass on what was taken."""


class LineWriter:
    """Pass whole lines on to a terminal or log; print a progress bar at its end and once in ten seconds.

    A bar redraws itself after a carriage return, which would fill a log with thousands of copies.
    """

    def __init__(self, target: TextTarget):
        self.target = target
        self.pending = ""  # what came since the last line's end or carriage return
        self.printed_at = time.monotonic()

    def write(self, text: str) -> None:
        """Pass on the lines of a text that are complete."""
        *lines, rest = (self.pending + text).split("\n")
        for line in lines:
            self._print(line)
        self.pending = rest[rest.rfind("\r", 0, -1) + 1 :]
        if "\r" in text and time.monotonic() - self.printed_at > PROGRESS_EVERY_SECONDS:
            self._print(self.pending)

    def flush(self) -> None:
        """Flush the target."""
        self.target.flush()

    def close(self) -> None:
        """Print the last line, which has no line end."""
        if self.pending.strip():
            self._print(self.pending)
        self.pending = ""

    def _print(self, line: str) -> None:
        print(line.rstrip("\r").rpartition("\r")[2], file=self.target, flush=True)
        self.printed_at = time.monotonic()
