"""Nothing is lost: a small `make repro`, killed at random moments and started again, ends as if it had not been.

A clone of the committed repository with toy settings runs once undisturbed. Then it runs again from nothing, is killed with
all its children (SIGKILL) at random moments, and started anew after each, until it is done; and once more, until there were
enough kills. Every output must have the hash that it had undisturbed. Writes benchmark/kills.csv: kill, at_seconds (since
that start), stage (those at work), resumed (the next start went on without an error), equal.
Usage: python benchmark/kills.py [KILLS]
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import yaml
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
KILLS = 50
LONGEST = 30.0  # seconds before a kill
TARGET = "evaluate@adk"
TOY = {"particles": 120, "box": 64, "pixel_A": 1.6, "snr": 1.0}
QUICK = {
    "latent_dim": 2, "network": {"templates": 128, "width": 64}, "alone_steps": 400, "joint_epochs": 3.0, "batch": 20,
    "checkpoint_seconds": 0.5,
    "ab_initio": {"consensus": {"restarts": 1, "steps": 30, "grids": [[1, 8], [2, 12]]},
                  "classes": {"steps": 25, "grids": [[2, 12]]}, "subspace_steps": 8, "batch": 40,
                  "grid": {"rotations": [2, 12], "extent": 0.0}, "routes": ["classes"]},
}  # fmt: skip


class Project:
    """A clone with toy settings, that runs from nothing as often as one likes."""

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        (folder / "data").symlink_to(ROOT / "data")
        (folder / "data.dvc").unlink()
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["datasets"] = {"adk": params["datasets"]["adk"] | TOY}
        params["stack"]["box"] = 24
        params["train"] = QUICK
        for method in params["methods"].values():
            method.pop("joint_epochs", None)
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        self.forget()  # the lock of the committed results, too

    def forget(self) -> None:
        """Remove all that a run left, DVC's memory of it too."""
        for name in ("results", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "dvc.lock").unlink(missing_ok=True)

    def run(self, target: str, seconds: float | None = None) -> tuple[int | None, str]:
        """Run until done, or until killed after so many seconds: the exit status (None: killed) and what it said."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder), "CUDA_VISIBLE_DEVICES": "",
                       "DVC_NO_ANALYTICS": "1"}  # fmt: skip
        command = [sys.executable, "scripts/repro.py", target]
        with open(self.folder / "said", "w+") as said:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
                _kill(process)
            said.seek(0)
            return code, said.read()

    def made(self) -> dict[str, str]:
        """Path → hash of every output that DVC knows, as it is on disk."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def _kill(process: subprocess.Popen) -> None:
    """A process and all its children at once, those in sessions of their own too."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(family, 20)
    process.wait()


def at_work(said: str) -> str:
    """The stages that had begun and were not done."""
    begun, done = (re.findall(rf"^(\S+): {word}", said, re.MULTILINE) for word in ("begins", "done"))
    return "; ".join(sorted(set(begun) - set(done))) or "none"


def kill_and_resume(folder: Path, kills: int, target: str, longest: float, seed: int = 0) -> pd.DataFrame:
    """The table of so many kills, in a project made in a folder that is not there yet."""
    draw, rows = random.Random(seed), []
    project = Project(folder)
    code, said = project.run(target)
    if code:
        raise RuntimeError(f"the undisturbed run failed:\n{said[-2000:]}")
    expected = project.made()
    with tqdm(total=kills, desc="kills") as bar:
        while len(rows) < kills:
            project.forget()
            first = len(rows)
            while True:
                wait = draw.uniform(1.0, longest) if len(rows) < kills else None
                code, said = project.run(target, wait)
                if len(rows) > first:
                    rows[-1]["resumed"] = code in (None, 0)
                if code is not None:
                    break
                rows.append({"kill": len(rows) + 1, "at_seconds": round(wait, 1), "stage": at_work(said)})
                bar.update()
            for row in rows[first:]:
                row["equal"] = code == 0 and project.made() == expected
            if code:
                print(said[-2000:], file=sys.stderr)
    return pd.DataFrame(rows)


def main(kills: int) -> int:
    """Kill, write the table, and tell; the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        table = kill_and_resume(Path(folder) / "project", kills, TARGET, LONGEST)
    table.to_csv(Path(__file__).with_name("kills.csv"), index=False)
    good = int((table["resumed"] & table["equal"]).sum())
    print(f"{good} of {len(table)} kills resumed with equal results, in {(time.monotonic() - began) / 60:.0f} min")
    return int(good < len(table))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS))
