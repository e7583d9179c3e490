"""Run `dvc repro` with several stages at a time, because small networks and grids gain little from more than one core.

A stage starts when all stages that it depends on are done. `dvc repro --single-item` runs each stage, with the number of cores
divided by the number of jobs. The measured times of all stages therefore refer to this number of cores. The output of each
stage goes to results/logs/. If a stage fails, the stages that do not depend on it still run.

Usage: python scripts/repro.py [--jobs N] [PIPELINE[:STAGE] ...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import locks
from dvc.repo import Repo

LOGS = Path("results/logs")
SECONDS_BETWEEN_REPORTS = 60


@dataclass(frozen=True)
class Stage:
    """A stage to run: its address, the addresses of the stages that it depends on, and whether it runs in every call."""

    name: str
    needs: frozenset[str]
    always: bool = False


def main(jobs: int, targets: list[str]) -> int:
    """Run the out-of-date stages among ``targets`` and their dependencies; return the exit status."""
    lock_files = [Path(name).with_name("dvc.lock") for name in {"dvc.yaml", *(target.partition(":")[0] for target in targets)}
                  if name.endswith("dvc.yaml")]  # fmt: skip
    locks.mend(lock_files)
    stages = out_of_date(targets)
    if not stages:
        print("Everything is up to date.")
        return 0
    if all(stage.always for stage in stages):
        names = ", ".join(stage.name for stage in stages)
        print(f"Everything is up to date; running only {names} (always run); output in {LOGS}/", flush=True)
    else:
        print(f"{len(stages)} stages to run, {jobs} at a time; output in {LOGS}/", flush=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    failed, left = _run_all(stages, jobs, lock_files)
    for name in failed:
        print("".join(_log(name).read_text().splitlines(keepends=True)[-15:]), file=sys.stderr)
        print(f"error: stage {name} failed; see its output in {_log(name)}", file=sys.stderr)
    if left:
        print(f"not run, because a required stage failed: {', '.join(left)}", file=sys.stderr)
    if failed:
        return 1
    print(f"All done after {(time.monotonic() - began) / 60:.1f} min.")
    return 0


def out_of_date(targets: list[str]) -> list[Stage]:
    """Return the changed stages and the stages that depend on them, in the order of dvc.yaml."""
    with Repo() as repo:
        graph = repo.index.graph  # edges lead from a stage to its dependencies
        wanted = [one for one in repo.index.stages if one.cmd and {one.path_in_repo, one.addressing} & set(targets)]
        seen = {one.addressing: one for one in wanted}
        for stage in wanted:  # the loop appends to this list
            for other in graph.successors(stage):
                if other.cmd and other.addressing not in seen:
                    seen[other.addressing] = other
                    wanted.append(other)
        status = repo.status(targets=list(seen))
        changed, unconditional = set(status), {name for name, reasons in status.items() if reasons == ["always changed"]}
        needs = {name: {other.addressing for other in graph.successors(stage)} & set(seen) for name, stage in seen.items()}
        grown = True
        while grown:
            more = {name for name in seen if needs[name] & changed} | changed
            grown, changed = len(more) > len(changed), more
        return [Stage(name, frozenset(needs[name] & changed), name in unconditional) for name in seen if name in changed]


def _run_all(stages: list[Stage], jobs: int, lock_files: list[Path]) -> tuple[list[str], list[str]]:
    """Run the stages; return the names of failed stages, and of stages not run because they depend on a failed stage."""
    waiting, running, done, failed = list(stages), {}, set(), []
    with ThreadPoolExecutor(jobs) as pool:
        while running or any(stage.needs <= done for stage in waiting):
            ready = [stage for stage in waiting if stage.needs <= done]
            for stage in ready[: jobs - len(running)]:
                running[pool.submit(_run, stage, jobs)] = stage
                waiting.remove(stage)
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for lock in lock_files:
                locks.keep(lock)
            for future in finished:
                stage = running.pop(future)
                code, seconds = future.result()
                _say(f"{stage.name}: {'done' if code == 0 else 'FAILED'} after {seconds:.0f} s")
                if code:
                    failed.append(stage.name)
                else:
                    done.add(stage.name)
    return failed, [stage.name for stage in waiting]


def _run(stage: Stage, jobs: int) -> tuple[int, float]:
    """Run a stage; return its exit status and seconds. Print the last line of its output once in a while as a sign of life."""
    _say(f"{stage.name}: started")
    began = time.monotonic()
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    with open(_log(stage.name), "w") as log:
        command = ["dvc", "--wait-for-lock", "repro", "--single-item", stage.name]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**threads, **os.environ})
        while True:
            try:
                return process.wait(SECONDS_BETWEEN_REPORTS), time.monotonic() - began
            except subprocess.TimeoutExpired:
                lines = re.split(r"[\r\n]+", _log(stage.name).read_text(errors="replace").strip())
                _say(f"{stage.name}: {lines[-1][:100]}")


def _say(line: str) -> None:
    """Print a line in one write, so that lines of different threads do not mix."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _log(name: str) -> Path:
    return LOGS / f"{name.replace('/', '-').replace(':', '-')}.log"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run dvc repro with several stages at a time.")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("targets", nargs="*", default=["dvc.yaml"])
    options = parser.parse_args()
    try:
        sys.exit(main(max(1, options.jobs), options.targets))
    except KeyboardInterrupt:
        sys.exit("interrupted; finished stages are kept, and the same command continues with the other stages")
