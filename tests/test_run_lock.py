"""The lock of a run folder: it refuses a second run while the first lives, and does not block after a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hetacumn.common.errors import HetacumnError
from hetacumn.run.lock import LOCK, hold

HOLDER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore Ctrl-C
from hetacumn.common.errors import HetacumnError
from hetacumn.run.lock import hold
try:
    with hold(sys.argv[1]):
        print("holds", flush=True)
        time.sleep(float(sys.argv[2]))
except HetacumnError as error:
    print(error, flush=True)
"""


def start(folder: Path, seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HOLDER, folder, str(seconds)], stdout=subprocess.PIPE, text=True)


def test_a_second_run_is_refused_while_the_first_lives_and_accepted_after_it(tmp_path):
    first = start(tmp_path / "out", 300)
    assert first.stdout.readline() == "holds\n"
    with pytest.raises(HetacumnError, match=f"out: in use by process {first.pid}, started .*; expected one run per folder"):
        with hold(tmp_path / "out"):
            pass
    first.send_signal(signal.SIGINT)
    first.wait(30)
    with hold(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / LOCK).read_text())["process"] == os.getpid()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_run_does_not_block_even_while_it_is_in_the_process_table(tmp_path):
    first = start(tmp_path, 300)
    assert first.stdout.readline() == "holds\n"
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # the process is dead and still in the process table
    assert (tmp_path / LOCK).exists()
    with hold(tmp_path):
        pass
    first.wait()
    assert not (tmp_path / LOCK).exists()


def test_one_of_several_simultaneous_runs_gets_the_lock_of_a_killed_run(tmp_path):
    first = start(tmp_path, 300)
    assert first.stdout.readline() == "holds\n"
    first.kill()
    first.wait()
    rivals = [start(tmp_path, 300) for _ in range(6)]
    said = [rival.stdout.readline() for rival in rivals]
    for rival in rivals:
        rival.kill()
        rival.wait()
    assert sum(line == "holds\n" for line in said) == 1 and sum("in use by process" in line for line in said) == 5


def test_a_lock_of_another_host_is_refused_with_the_way_to_remove_it(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "process": 1, "began": 0.0}))
    with pytest.raises(HetacumnError, match=r"process 1 on elsewhere, .* or remove .*\.lock if the process no longer exists"):
        with hold(tmp_path):
            pass
    assert (tmp_path / LOCK).exists()


def test_a_lock_is_ignored_if_its_process_number_belongs_to_a_later_process(tmp_path):
    import platform

    (tmp_path / LOCK).write_text(json.dumps({"host": platform.node(), "process": 1, "began": 0.0}))
    with hold(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_damaged_lock_does_not_block(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with hold(tmp_path):
        pass


def test_child_processes_of_the_holder_may_use_the_folder_and_keep_the_lock(tmp_path):
    with hold(tmp_path):
        with hold(tmp_path):
            pass
        child = start(tmp_path, 0)
        assert child.stdout.readline() == "holds\n"
        child.wait()
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("damage", ({"process": "x"}, {"began": "x"}, {"began": 1e300}, {"host": None, "process": []}))
def test_a_lock_with_values_of_wrong_types_is_taken_over(tmp_path, damage):
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "process": 1, "began": 1.0} | damage))
    with hold(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()
