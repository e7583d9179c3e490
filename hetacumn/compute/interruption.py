"""Interruption by SIGTERM or Ctrl-C between two steps of a loop."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interruption:
    """A context in which SIGTERM and Ctrl-C only set ``asked``, so that a loop can finish its step and save its state."""

    def __init__(self) -> None:
        self.asked = False

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True

    def __enter__(self) -> Interruption:
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # Python sets signal handlers only in the main thread
            self.before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
