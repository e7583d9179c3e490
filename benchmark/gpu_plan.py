"""An ordered plan of steps within a limit of time: the step in progress at the limit stops, and a later call continues it."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from gpu_busy import BusyTable


@dataclass(frozen=True)
class Step:
    """A step of a plan.

    - ``dataset``, ``name``: the names for messages and for the table of the phases.
    - ``least_seconds``: the least time that the step takes on a GPU; without this time, the plan skips the step.
    - ``work``: does the work; it is called again after an interruption, and gets the seconds that are left.
    - ``is_done``: whether an earlier call finished the step.
    - ``needs``: a step that must be finished before.
    - ``most_seconds``: the step stops after this time, so that it does not use the time of later steps.
    - ``refusal``: why the step cannot run on this machine, if it cannot.
    """

    dataset: str
    name: str
    least_seconds: float
    work: Callable[[float], object]
    is_done: Callable[[], bool]
    needs: Step | None = None
    most_seconds: float = float("inf")
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.dataset}: {self.name}"


class TimeLimit:
    """A limit of clock time in seconds, from the construction on."""

    def __init__(self, seconds: float) -> None:
        self.ends, self.is_reached = time.monotonic() + seconds, False

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    @contextmanager
    def stops(self, seconds: float) -> Iterator[None]:
        """Send this process SIGINT after so many seconds in the context, as Ctrl-C does: a training writes a checkpoint."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.is_reached = True
            signal.raise_signal(signal.SIGINT)

        self.is_reached = False
        if threading.current_thread() is not threading.main_thread() or seconds == float("inf"):
            yield  # Python handles signals only in the main thread
            return
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
            signal.signal(signal.SIGINT, signal.default_int_handler)
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def run_plan(steps: Sequence[Step], limit: TimeLimit, table: BusyTable) -> list[str]:
    """Run the steps in order, and print the reason for each skipped step; return the names of the steps that failed."""
    failed = []
    for step in steps:
        if step.is_done():
            print(f"{step}: skipped, because it is finished", flush=True)
        elif step.refusal:
            print(f"{step}: skipped, because {step.refusal}", flush=True)
        elif step.needs is not None and not step.needs.is_done():
            print(f"{step}: skipped, because '{step.needs}' is not finished", flush=True)
        elif limit.left < step.least_seconds:
            left = f"{max(0.0, limit.left):.0f} s of the plan are left"
            print(f"{step}: skipped, because it takes at least {step.least_seconds:.0f} s, and {left}", flush=True)
        elif not run_step(step, limit, table):
            failed.append(str(step))
    return failed


def run_step(step: Step, limit: TimeLimit, table: BusyTable) -> bool:
    """Run a step until the limit; return False if it failed. A failure does not end the plan."""
    print(f"{step}: begins, {limit.left:.0f} s are left", flush=True)
    began = time.monotonic()
    try:
        with limit.stops(min(limit.left, step.most_seconds)), table.phase(step.dataset, step.name):
            step.work(limit.left)
    except KeyboardInterrupt:
        if not limit.is_reached:
            raise
        print(f"{step}: stopped after {time.monotonic() - began:.0f} s; the next call goes on from here", flush=True)
    except Exception:  # the time on a GPU is short: the other steps run nevertheless
        traceback.print_exc()
        print(f"{step}: failed", flush=True)
        return False
    else:
        print(f"{step}: {time.monotonic() - began:.1f} s", flush=True)
    return True
