"""`dvc repro`, several stages at a time: each stage is a process of one thread, and small networks gain little from more.

Stages of one kind do not need each other, so kinds go in their order, and within a kind the stages run side by side, each
by `dvc repro --single-item`. Output goes to results/logs/. At the end a plain `dvc repro` does what is left and checks the
whole. Usage: python scripts/repro.py [how many at a time; all cores if not given]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

KINDS = ("simulate",), ("em",), ("train",), ("search", "predict", "grade"), ("evaluate",)
LOGS = Path("results/logs")
SECONDS_BETWEEN_NEWS = 30


def main(jobs: int) -> int:
    """Run what is out of date; the exit status."""
    if subprocess.run(["dvc", "status", "--quiet"]).returncode == 0:
        print("Everything is up to date.")
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["dvc", "stage", "list", "--name-only"], capture_output=True, text=True, check=True)
    names = listed.stdout.split()
    for kinds in KINDS:
        for name, code, seconds in _side_by_side([n for n in names if n.split("@")[0] in kinds], jobs):
            print(f"{name}: {'done' if code == 0 else 'FAILED'} after {seconds:.0f} s", flush=True)
            if code:
                print("".join(_log(name).read_text().splitlines(keepends=True)[-15:]), file=sys.stderr)
                print(f"error: stage {name} failed; its output is in {_log(name)}", file=sys.stderr)
                return code
    return subprocess.run(["dvc", "repro"]).returncode


def _side_by_side(names: list[str], jobs: int) -> Iterator[tuple[str, int, float]]:
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run, name) for name in names]
        try:
            for done in as_completed(waiting):
                yield done.result()
                if done.result()[1]:
                    return
        finally:
            for one in waiting:
                one.cancel()


def _run(name: str) -> tuple[str, int, float]:
    print(f"{name}: begins, see {_log(name)}", flush=True)
    began = time.monotonic()
    with open(_log(name), "w") as log:
        command = ["dvc", "--wait-for-lock", "repro", "--single-item", name]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        while True:
            try:
                return name, process.wait(SECONDS_BETWEEN_NEWS), time.monotonic() - began
            except subprocess.TimeoutExpired:
                lines = _log(name).read_text(errors="replace").replace("\r", "\n").split("\n")
                print(f"{name}: {next((line for line in reversed(lines) if line.strip()), '')[:100]}", flush=True)


def _log(name: str) -> Path:
    return LOGS / f"{name}.log"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1))
