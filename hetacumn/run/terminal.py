"""Output of a running notebook on the terminal, line by line."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

PROGRESS_EVERY_SECONDS = 10.0


@runtime_checkable
class TextTarget(Protocol):
    """An object that text can be written to, such as a terminal or a log."""

    def write(self, text: str, /) -> object:
        """Write text."""

    def flush(self) -> object:
        """Flush the written text."""


class LineWriter:
    """Write complete lines to a terminal or log; write a progress bar once in 10 s and at its end.

    A progress bar rewrites its line after a carriage return, which would fill a log with thousands of copies.
    """

    def __init__(self, target: TextTarget):
        self.target = target
        self.pending = ""  # text since the last line end or carriage return
        self.printed_at = time.monotonic()

    def write(self, text: str) -> None:
        """Write the complete lines of ``text``, and keep the rest for the next call."""
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
        """Write the text that follows the last line end."""
        if self.pending.strip():
            self._print(self.pending)
        self.pending = ""

    def _print(self, line: str) -> None:
        print(line.rstrip("\r").rpartition("\r")[2], file=self.target, flush=True)
        self.printed_at = time.monotonic()
