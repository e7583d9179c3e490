"""The project root, provenance, files written atomically, and output folders."""

import json
import os
import signal
import subprocess
import sys

import pytest

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import atomic_path, make_folder, write_json
from hetacumn.common.memory import peak_memory_mb
from hetacumn.common.project import project_root, read_params
from hetacumn.common.provenance import provenance


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a project folder; the working directory is two levels below it."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train: {epochs: 3}\n")
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/dvc.yaml").write_text("stages: {}\n")  # a second pipeline is not the root
    monkeypatch.chdir(tmp_path / "a/b")
    return tmp_path


def test_the_root_is_the_folder_with_both_files_and_params_are_read_there(folder):
    assert project_root() == folder
    assert read_params() == {"train": {"epochs": 3}}


def test_other_settings_override_the_params(folder):
    over = folder / "more.yaml"
    over.write_text("train: {rate: 0.1}\nclasses: 2\n")
    assert read_params(over) == {"train": {"epochs": 3, "rate": 0.1}, "classes": 2}
    with pytest.raises(HetacumnError, match="absent.yaml: no such file; expected settings"):
        read_params(folder / "absent.yaml")


def test_a_missing_project_and_invalid_params_are_refused(folder):
    (folder / "params.yaml").write_text("a: [1,\n")
    with pytest.raises(HetacumnError, match="params.yaml: not valid YAML"):
        read_params()
    (folder / "params.yaml").unlink()
    with pytest.raises(HetacumnError, match=r"dvc\.yaml and params\.yaml"):
        project_root()


def test_atomic_path_writes_all_or_nothing(tmp_path):
    target = tmp_path / "new/table.csv"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        assert temporary.suffix == ".csv" and not target.exists()
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert target.read_text() == "one" and len(list(target.parent.iterdir())) == 1


def test_a_folder_in_the_place_of_a_file_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "table.star").mkdir()
    with pytest.raises(HetacumnError, match="table.star: cannot be written"), atomic_path(tmp_path / "table.star") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["table.star"]


def test_temporary_files_of_a_killed_process_are_removed_and_those_of_others_are_kept(tmp_path):
    code = "from hetacumn.common.files import atomic_path\nimport os, signal, sys\n"
    code += "with atomic_path(sys.argv[1]) as path:\n path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    target, other = tmp_path / "stack.mrcs", tmp_path / ".stack.elsewhere-1-00000000.mrcs"
    other.touch()  # temporary file of another machine
    assert subprocess.run([sys.executable, "-c", code, target]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_path(target) as first, atomic_path(target) as second:
        first.write_text("one"), second.write_text("two")
        assert len(list(tmp_path.iterdir())) == 3
    assert sorted(tmp_path.iterdir()) == sorted([other, target])


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "config.json", {"b": 1, "a": [None, "Å"]})
    assert json.loads((tmp_path / "config.json").read_text()) == {"b": 1, "a": [None, "Å"]}


def test_provenance_names_the_commit_and_marks_uncommitted_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["git_commit"] is None

    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    for name in ("code.py", "dvc.lock"):
        (tmp_path / name).write_text("1")
    git("init"), git("add", "."), git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert provenance()["git_commit"] == commit
    (tmp_path / "dvc.lock").write_text("2")
    assert provenance()["git_commit"] == commit
    (tmp_path / "code.py").write_text("2")
    assert provenance()["git_commit"] == commit + "+dirty"
    assert {"python", "torch", "numpy", "hetacumn"} <= set(provenance())


def test_peak_memory_is_in_the_range_of_a_python_process():
    assert 10 < peak_memory_mb() < 1e6


def full_disk(code: str, folder) -> str:
    """Return the output of a process that cannot write a file of more than 20 kB; fail if it ends with a traceback."""
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    handler = (
        "from hetacumn.common.errors import HetacumnError\ntry:\n    work()\nexcept HetacumnError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", prelude + code + handler], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_full_disk_is_reported_and_the_earlier_file_is_kept(tmp_path):
    (tmp_path / "table.json").write_text("before")
    code = "from hetacumn.common.files import write_json\ndef work(): write_json('table.json', ['long'] * 10_000)\n"
    assert full_disk(code, tmp_path).startswith("table.json: cannot be written (File too large); the earlier file is unchanged")
    assert (tmp_path / "table.json").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_refuses_a_stack_before_it_is_filled(tmp_path):
    code = """
from hetacumn.io.stacks import new_stack
def work():
    with new_stack('particles.mrcs', 100, 64, 1.0) as stack:
        print('filled')
"""
    said = full_disk(code, tmp_path)
    assert said.startswith("particles.mrcs: cannot be written (File too large); no file was made") and "filled" not in said
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_with_its_parents(tmp_path):
    assert make_folder(tmp_path / "a/b").is_dir() and make_folder(str(tmp_path / "a/b")) == tmp_path / "a/b"


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/below/it"):
        with pytest.raises(HetacumnError, match=f"^{tmp_path}/file: is a file; expected a folder to write into$"):
            make_folder(path)
    with pytest.raises(HetacumnError, match="file: is a file"):
        write_json(tmp_path / "file/run.json", {})


def test_a_folder_that_cannot_be_made_is_named():
    with pytest.raises(HetacumnError, match="^/proc/nowhere/out: cannot be made .*; expected a folder to write into$"):
        make_folder("/proc/nowhere/out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    for path, message in (("closed", "is read-only"), ("closed/out", "cannot be made .Permission denied.")):
        with pytest.raises(HetacumnError, match=f"{path}: {message}; expected a folder to write into"):
            make_folder(tmp_path / path)
