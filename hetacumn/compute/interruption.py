"""Interruption by SIGTERM or Ctrl-C between two steps of a loop."""

from __future__ import annotations

import signal
import threading


class Interruption:
    """Within it SIGTERM and Ctrl-C only ask to stop, so that a step is done whole before its state is saved."""

    def __init__(self):
        self.asked = False

    def _ask(self, signum, frame) -> None:
        self.asked = True

    def __enter__(self) -> Interruption:
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
