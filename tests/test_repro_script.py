"""scripts/repro.py runs stages in parallel: each after its inputs, none twice, and with failures reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/repro.py"
STAGES = """
stages:
  em:
    foreach: [a, b, c]
    do:
      cmd: mkdir -p out && echo ${item} > out/em-${item} && echo ran-${item} >> ran
      outs: ["out/em-${item}"]
  train:
    foreach: [a, b]
    do:
      cmd: cp out/em-${item} out/net-${item} && cat out/em-c >> out/net-${item}
      deps: ["out/em-${item}", out/em-c]
      outs: ["out/net-${item}"]
  predict:
    foreach: [a, b]
    do:
      cmd: cp out/net-${item} out/predicted-${item}
      deps: ["out/net-${item}"]
      outs: ["out/predicted-${item}"]
  figures:
    cmd: cat out/predicted-a out/predicted-b > figure
    deps: [out/predicted-a, out/predicted-b]
    outs: [figure]
"""
TIMINGS = """
  timings:
    cmd: cat ran > timings && echo timed >> times
    always_changed: true
    deps: [out/predicted-a]
"""
MORE = """
stages:
  longer:
    wdir: ..
    cmd: cat out/net-a > longer
    deps: [out/net-a]
    outs: [longer]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], check=True)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    return tmp_path


def run(*pipelines):
    return subprocess.run([sys.executable, SCRIPT, "--jobs", "3", *pipelines], capture_output=True, text=True)


def test_every_stage_runs_once(project):
    first = run()
    assert first.returncode == 0, first.stdout + first.stderr
    assert (project / "figure").read_text().split() == ["a", "c", "b", "c"]
    assert sorted((project / "ran").read_text().split()) == ["ran-a", "ran-b", "ran-c"]
    again = run()
    assert again.returncode == 0 and "Everything is up to date." in again.stdout
    assert len((project / "ran").read_text().split()) == 3


def test_an_always_changed_stage_runs_after_its_inputs_and_alone_if_nothing_changed(project):
    (project / "dvc.yaml").write_text(STAGES + TIMINGS)
    first = run()
    assert first.returncode == 0 and first.stdout.startswith("9 stages to run"), first.stdout + first.stderr
    assert first.stdout.index("predict@a: done") < first.stdout.index("timings: started")
    (project / "timings").unlink()
    lock = (project / "dvc.lock").read_bytes()
    again = run()
    assert again.returncode == 0 and again.stdout.startswith("Everything is up to date; running only timings"), again.stdout
    assert [line for line in again.stdout.splitlines() if "started" in line] == ["timings: started"]
    assert (project / "timings").exists() and (project / "times").read_text().split() == ["timed", "timed"]
    assert (project / "dvc.lock").read_bytes() == lock
    assert len((project / "ran").read_text().split()) == 3


def test_another_pipeline_runs_only_the_stages_that_it_needs(project):
    (project / "more").mkdir()
    (project / "more/dvc.yaml").write_text(MORE)
    ran = run("more/dvc.yaml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (project / "longer").read_text().split() == ["a", "c"]
    assert sorted(path.name for path in (project / "out").iterdir() if path.name[0] != ".") == ["em-a", "em-c", "net-a"]


def test_a_single_stage_can_be_requested(project):
    ran = run("train@b")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sorted(path.name for path in (project / "out").iterdir() if path.name[0] != ".") == ["em-b", "em-c", "net-b"]


def test_only_changed_stages_and_the_stages_that_need_them_run_again(project):
    run()
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("cat out/em-c >>", "echo d >>"))
    again = run()
    assert again.returncode == 0, again.stdout + again.stderr
    assert (project / "figure").read_text().split() == ["a", "d", "b", "d"]
    assert "em@" not in again.stdout and len((project / "ran").read_text().split()) == 3


def test_a_failed_stage_is_named_with_its_output(project):
    path = project / "dvc.yaml"
    path.write_text(STAGES.replace("cp out/em-${item}", "echo no such luck; exit 1; cp out/em-${item}"))
    ran = run()
    assert ran.returncode != 0 and not (project / "figure").exists()
    assert "no such luck" in ran.stderr and "error: stage train@" in ran.stderr and "results/logs/train@" in ran.stderr


def test_stages_that_do_not_need_a_failed_stage_run(project):
    path = project / "dvc.yaml"
    path.write_text(STAGES.replace("cp out/em-${item}", "test ${item} = b && cp out/em-${item}"))
    ran = run()
    assert ran.returncode != 0 and ran.stderr.count("error: stage") == 1 and "error: stage train@a failed" in ran.stderr
    assert "not run, because a required stage failed: predict@a, figures" in ran.stderr
    assert (project / "out/predicted-b").read_text().split() == ["b", "c"]


@pytest.mark.parametrize("left", [0.0, 0.5, 0.98])
def test_a_truncated_lock_is_repaired(project, left):
    """DVC writes dvc.lock in place, so a kill can truncate the file."""
    run()
    lock = project / "dvc.lock"
    content = lock.read_bytes()
    lock.write_bytes(content[: int(left * len(content))])
    (project / ".dvc/tmp/rwlock").write_text('{"read": {')
    again = run()
    assert again.returncode == 0, again.stdout + again.stderr
    assert lock.read_bytes() == content or run().stdout.startswith("Everything is up to date")
    assert (project / "figure").read_text().split() == ["a", "c", "b", "c"]


def test_a_truncated_lock_without_a_copy_is_moved_away(project):
    run()
    lock = project / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:100])
    shutil.rmtree(project / ".dvc/tmp/kept")
    again = run()
    assert again.returncode == 0 and "dvc.lock: truncated by a kill; moved to dvc.cut" in again.stdout
    assert (project / "dvc.cut").exists() and (project / "figure").read_text().split() == ["a", "c", "b", "c"]
