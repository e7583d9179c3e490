"""The notebook runner: what it refuses and prints, how it ends, and that a rerun writes the same bytes."""

import io
import os
import signal
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from hetacumn.common.errors import HetacumnError
from hetacumn.run.notebook import LEFT_BY_INTERRUPTION, main, parse_value, run_notebook, write_with_parameters
from hetacumn.run.terminal import LineWriter

PARAMETERS = 'dataset = "adk"  # which one\nseed: int = 0\nout = None\n'


@pytest.fixture
def make_notebook(tmp_path, monkeypatch):
    """Return a function that writes a notebook with a parameters cell and the given cells into an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(*cells: str):
        tagged = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        path = tmp_path / "stage.ipynb"
        nbformat.write(new_notebook(cells=[tagged, *map(new_code_cell, cells)]), path)
        return path

    return make


@pytest.mark.parametrize(
    "text, default, value",
    [
        ("3", "0", 3),
        ("1e-3", "0.1", 1e-3),
        ("true", "False", True),
        ("null", '"a"', None),
        ("[1, 2]", "None", [1, 2]),
        ("my/particles.star", "None", "my/particles.star"),
        ("6e10", '"adk"', "6e10"),
        ("6e10", "None", 6e10),
        ("a: b", "None", "a: b"),
        ("", "None", ""),
    ],
)
def test_values_are_parsed_by_their_form_unless_the_default_is_a_string(text, default, value):
    read = parse_value(text, default)
    assert read == value and type(read) is type(value)


def test_a_run_writes_the_executed_copy_and_a_rerun_writes_the_same_bytes(make_notebook, capfd):
    notebook = make_notebook(
        "import os, sys\nprint(dataset, seed, sys.executable, os.getcwd())",
        "for i in range(3):\n    print(i, flush=True)\nprint('bar', file=sys.stderr)\n1 + 1",
    )
    arguments = [str(notebook), "-p", "seed", "3", "-p", "out", "new/folder"]
    assert main(arguments) == 0
    executed = notebook.parent / "new/folder/stage.ipynb"
    first = executed.read_bytes()
    assert main(arguments) == 0
    assert executed.read_bytes() == first

    printed = capfd.readouterr()
    assert f"adk 3 {sys.executable} {os.getcwd()}\n0\n1\n2\n" in printed.out and "bar" in printed.err
    cells = nbformat.read(executed, as_version=4).cells
    assert cells[-1].outputs[0].text == "0\n1\n2\n"
    assert cells[-1].outputs[1].data["text/plain"] == "2" and len(cells[-1].outputs) == 2
    assert [path.name for path in executed.parent.iterdir()] == ["stage.ipynb"]


def test_an_unknown_parameter_is_refused_with_the_known_ones(make_notebook):
    with pytest.raises(HetacumnError, match="no parameter sed; its parameters are dataset, seed, out"):
        run_notebook(make_notebook(), {"sed": "1", "out": "x"})


def test_a_misspelt_parameter_is_refused_with_the_nearest_name(make_notebook):
    with pytest.raises(HetacumnError, match="no parameter sed; .*; did you mean seed\\?"):
        run_notebook(make_notebook(), {"sed": "1", "out": "x"})
    with pytest.raises(HetacumnError, match="no parameter frequency; expected one of dataset, seed, out"):
        run_notebook(make_notebook(), {"frequency": "1", "out": "x"})


def test_a_warning_is_one_line_without_its_source(make_notebook, capfd):
    notebook = make_notebook("import warnings\nwarnings.warn('pixel size\\n  differs', stacklevel=1)")
    assert main([str(notebook), "-p", "out", "out"]) == 0
    assert capfd.readouterr().err == "warning: pixel size differs\n"


def test_a_warning_in_a_process_of_a_job_is_one_line(tmp_path):
    (tmp_path / "job.json").write_text('{"device": "cpu"}')
    code = (
        "import sys, warnings\nfrom hetacumn.compute.launching import run_process\n"
        "sys.exit(run_process('job.json', lambda *_: warnings.warn('pixel size\\n  differs', stacklevel=1)))"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | alone, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0 and "warning: pixel size differs\n" in ran.stderr and "warnings.warn" not in ran.stderr


def test_values_other_than_text_reach_the_notebook_unchanged(make_notebook, capfd):
    notebook = make_notebook("print(dataset['train']['rate'] + 1, dataset['none'])")
    run_notebook(notebook, {"dataset": {"train": {"rate": 2.5}, "none": None}, "out": "out"})
    assert capfd.readouterr().out == "3.5 None\n"


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(make_notebook, tmp_path, capfd):
    notebook = make_notebook(
        "import time\nfrom pathlib import Path\nprint('begins', flush=True)\n"
        "while not Path('go').exists():\n    time.sleep(0.1)"
    )
    command = [sys.executable, "-m", "hetacumn.run", notebook, "-p", "out", "out"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "begins\n"
    assert main([str(notebook), "-p", "out", "out"]) == 2
    assert f"error: out: in use by process {first.pid}" in capfd.readouterr().err
    (tmp_path / "go").touch()
    assert first.wait(60) == 0 and os.listdir("out") == ["stage.ipynb"]


def test_an_output_folder_that_is_a_file_or_cannot_be_made_is_refused(make_notebook, tmp_path, capfd):
    notebook = make_notebook()
    (tmp_path / "taken").touch()
    for words in (["-p", "out", "taken"], ["-p", "out", "taken/inside"], ["-o", "taken/done.ipynb"]):
        assert main([str(notebook), *words]) == 2
        line = capfd.readouterr().err
        assert line.startswith("error: taken") and "expected a folder to write into" in line and line.count("\n") == 1


def test_an_interruption_names_the_checkpoint(make_notebook, tmp_path):
    notebook = make_notebook(
        "import time\nfrom pathlib import Path\nPath(out, 'checkpoint.pt').touch()\n"
        "print('begins', flush=True)\ntime.sleep(300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hetacumn.run", notebook, "-p", "out", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begins\n"
    time.sleep(1)  # the runner is still printing that line
    process.terminate()
    assert process.wait(60) == 130
    assert process.stderr.read().endswith("interrupted: the same command resumes from out/checkpoint.pt\n")
    assert os.listdir(tmp_path / "out") == ["checkpoint.pt"]


def test_the_checkpoints_that_an_interruption_names_are_those_of_training():
    from hetacumn.ab_initio.start import UNDER_WAY
    from hetacumn.network.model_files import CHECKPOINT

    assert LEFT_BY_INTERRUPTION == (CHECKPOINT, UNDER_WAY)


def test_a_copy_with_other_parameters_holds_them_and_is_not_executed(make_notebook, tmp_path):
    write_with_parameters(make_notebook("print(seed)"), {"seed": 7}, tmp_path / "copy.ipynb")
    cells = nbformat.read(tmp_path / "copy.ipynb", as_version=4).cells
    assert "seed = 7" in cells[1].source and cells[-1].outputs == []


def test_a_missing_output_folder_and_a_missing_or_invalid_notebook_are_refused(make_notebook, tmp_path):
    notebook = make_notebook()
    with pytest.raises(HetacumnError, match="no path for the executed copy"):
        run_notebook(notebook, {})
    with pytest.raises(HetacumnError, match="overwrite"):
        run_notebook(notebook, {"out": "."})
    with pytest.raises(HetacumnError, match="no such notebook"):
        run_notebook(tmp_path / "none.ipynb", {})
    (tmp_path / "text.ipynb").write_text("not JSON")
    with pytest.raises(HetacumnError, match="not a Jupyter notebook"):
        run_notebook(tmp_path / "text.ipynb", {})


def test_a_hetacumn_error_prints_one_line_and_leaves_no_file(make_notebook, capfd):
    notebook = make_notebook(
        "from hetacumn.common.errors import HetacumnError\nraise HetacumnError('a.star, row 3:\\n  no image 7')"
    )
    assert main([str(notebook), "-p", "out", "out"]) == 2
    assert capfd.readouterr().err == "error: a.star, row 3: no image 7\n"
    assert list((notebook.parent / "out").iterdir()) == []


def test_any_other_error_shows_the_traceback_and_keeps_the_failed_copy(make_notebook, capfd):
    assert main([str(make_notebook("1 / 0")), "-o", "deep/done.ipynb"]) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert os.listdir("deep") == ["done.failed.ipynb"]
    assert main([str(make_notebook("1 / 1")), "-o", "deep/done.ipynb"]) == 0
    assert os.listdir("deep") == ["done.ipynb"]


def test_a_killed_kernel_is_reported_in_one_line(make_notebook, capfd):
    notebook = make_notebook("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert main([str(notebook), "-p", "out", "out"]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "the kernel was killed, probably because memory ran out; run the command" in said
    assert os.listdir("out") == []


def test_sigterm_lets_the_kernel_finish_its_work(make_notebook, tmp_path):
    """A cluster sends SIGTERM to the runner alone; training then writes a checkpoint before it ends."""
    notebook = make_notebook(
        "import signal, time\nfrom pathlib import Path\n"
        "def end(*_):\n    time.sleep(0.5)\n    Path('kept').touch()\n    raise KeyboardInterrupt\n\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(number, end)\n"
        "print('begins', flush=True)\ntime.sleep(300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hetacumn.run", notebook, "-p", "out", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begins\n"
    time.sleep(1)  # the runner is still printing that line; a signal at this time may not reach the kernel
    process.terminate()
    assert process.wait(60) == 130 and process.stderr.read().endswith("interrupted\n")
    assert (tmp_path / "kept").exists() and not any((tmp_path / "out").iterdir())


def test_an_interrupt_stops_the_kernel_and_leaves_no_file(make_notebook):
    notebook = make_notebook("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(300)")
    process = subprocess.Popen(
        [sys.executable, "-m", "hetacumn.run", notebook, "-p", "out", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a background job ignores SIGINT otherwise
    kernel = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=90) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    assert os.listdir("out") == []


def test_a_progress_bar_is_logged_as_its_last_line():
    log = io.StringIO()
    writer = LineWriter(log)
    for text in ("one\ntw", "o\n", "\r 10%", "\r 50%", "\r100%", "\n", "end"):
        writer.write(text)
    writer.close()
    assert log.getvalue() == "one\ntwo\n100%\nend\n"
