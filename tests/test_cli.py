"""The `hetacumn` command: its help, early refusal of mistakes, and a complete run from an empty folder."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import kills
import pandas as pd
import pytest
import yaml

from hetacumn.cli.command import NOTEBOOKS
from hetacumn.cli.main import main
from hetacumn.io import star

REPO = Path(__file__).resolve().parents[1]
COMMANDS = (
    "train",
    "predict",
    "reconstruct",
    "report",
    "compare",
    "explore",
    "flip-hand",
    "export",
    "mask",
    "simulate",
    "prepare",
    "run",
)
QUICK = kills.QUICK | {"alone_steps": 60, "joint_epochs": 1.0, "batch": 50, "checkpoint_seconds": 60.0}
needs_data = pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")


def hetacumn(folder: Path, *words) -> subprocess.CompletedProcess:
    """Run the command in its own process, in a folder outside the repository."""
    return subprocess.run([sys.executable, "-m", "hetacumn.cli", *map(str, words)], cwd=folder, env=environment(),
                          capture_output=True, text=True, timeout=600)  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Return a function that calls the command in a folder with an incomplete STAR file and returns its one-line error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.star").write_text("data_particles\n\nloop_\n_rlnDefocusU #1\n1.0\n")

    def call(*words) -> str:
        assert main([str(word) for word in words]) == 2
        line = capfd.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        return line

    return call


@pytest.mark.parametrize("command", ("", *COMMANDS))
def test_help_fits_24_lines_of_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"] if command else []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 0 < len(lines) <= 24 and max(map(len, lines)) <= 80
    if not command:
        assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)
        listed = [line for line in lines[lines.index("Commands:") :] if "NAME VALUE" not in line]
        assert not any(line.endswith("...") for line in listed)  # no sentence is cut


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_the_help_of_every_option_shows_its_default(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    options = capsys.readouterr().out.partition("Options:")[2].split("\n  --")[1:]
    assert len(options) > 1
    without = {"help", "set", "config", "like", "class", "rows", "motion"}  # these have no effect unless given
    for option in options:
        text = " ".join(option.split())
        assert text.split()[0] in without or "[default: " in text or "[required]" in text, text


def test_help_and_a_wrong_path_import_no_heavy_package(tmp_path):
    code = ("import sys\nfrom hetacumn.cli.main import main\nmain(sys.argv[1:])\n"
            "print([name for name in ('torch', 'pandas', 'papermill', 'numpy') if name in sys.modules])")  # fmt: skip
    for words in (["--help"], ["train", "--help"], ["train", "absent.star"], ["predict", "absent.star"],
                  ["report", "absent"], ["compare", "absent", "other"]):  # fmt: skip
        command = [sys.executable, "-c", code, *words]
        ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert ran.stdout.splitlines()[-1] == "[]", words


def test_a_wrong_setting_is_refused_without_the_imports_of_training(tmp_path):
    (tmp_path / "table.star").write_text("data_particles\n\nloop_\n_rlnDefocusU #1\n1.0\n")
    code = ("import sys\nfrom hetacumn.cli.main import main\nassert main(['train', 'table.star', '--set', 'a=1']) == 2\n"
            "assert not {'sklearn', 'healpy', 'roma', 'hetacumn.network.training'} & set(sys.modules)")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=True)


@pytest.mark.parametrize("words, message", [
    (["train", "absent.star"], "absent.star: no such file; expected a STAR"),
    (["train", "."], ".: is a folder; expected a STAR"),
    (["train", "table.star"], "table.star: no column rlnImageName"),
    (["train", "table.star", "--config", "absent.yaml"], "absent.yaml: no such file; expected settings"),
    (["train", "table.star", "--set", "trian.rate=1"], "unknown setting trian; did you mean train?"),
    (["train", "table.star", "--set", "train.rat=1"], "unknown setting train.rat; did you mean train.rate?"),
    (["train", "table.star", "--set", "alone_step=1"], "unknown setting alone_step; did you mean train.alone_steps?"),
    (["train", "table.star", "--set", "stack.bx=1"], "unknown setting stack.bx; did you mean stack.box?"),
    (["train", "table.star", "--set", "rate"], "--set rate: expected name=value"),
    (["train", "table.star", "--set", "train.rate=fast"], "rate is 'fast'; expected a valid number"),
    (["train", "table.star", "--set", "stack.trained_share=2"], "trained_share is 2; expected a number above 0 and up to 1"),
    (["train", "table.star", "--classes", "-1"], "classes is -1; expected a whole number of at least 1, or 0 to find it"),
    (["train", "table.star", "--device", "gpu"], "--device is 'gpu'; expected cpu"),
    (["train", "table.star", "--device", "cpu", "--devices", "0"], "--devices is 0; expected 1 or more"),
    (["train", "table.star", "--clases", "3"], "No such option: --clases (Possible options: --classes"),
    (["train"], "Missing argument 'particles'"),
    (["trian", "table.star"], "No such command 'trian'. Did you mean 'train'?"),
    (["train", "table.star", "--set", "train.alon_steps=3"],
     "--set train.alon_steps=3: unknown setting train.alon_steps; did you mean train.alone_steps?"),
    (["train", "table.star", "--set", "peers.relion=1"], "--set peers.relion=1: this command does not read this setting"),
    (["predict", "table.star"], "results/mine: no model.safetensors; expected a folder with a trained model"),
    (["predict", "table.star", "--grade", "searched"], "results/mine: no start.safetensors; expected a folder with an ab"),
    (["predict", "table.star", "--grade", "refind"], "--grade is 'refind'; did you mean refined?"),
    (["report", "."], ".: no predictions.star; expected a folder with predictions"),
    (["mask", "absent.mrc", "--threshold", "1"], "absent.mrc: no such file; expected an MRC file of a map"),
    (["train", "table.star", "--mask", "mask.mrc"], "mask is 'mask.mrc'; expected poses given or fixed with a mask"),
    (["export", ".", "--to", "x"], "expected --rows, or at least one of --class and --min-gain"),
    (["export", ".", "--to", "x", "--class", "1", "--symmetry", "C"], "--symmetry is 'C'; expected Cn, Dn, T, O, I or I1"),
    (["reconstruct", ".", "--symmetry", "7"], "--symmetry is '7'; expected Cn, Dn, T, O, I or I1 to I4"),
    (["export", ".", "--to", "x", "--rows", "absent.txt"], "absent.txt: no such file; expected a text file of row numbers"),
    (["simulate", "adq", "--set", "train.rate=1"], "--set train.rate=1: this command does not read this setting"),
    (["train", "table.star", "--set", "methods=3"], "--set methods=3: methods is 3; expected a mapping of names to values"),
    (["train", "table.star", "--set", "stack=3"], "--set stack=3: stack is 3; expected a mapping of names to values"),
    (["train", "table.star", "--set", "train.ab_initio=3"], "train.ab_initio is 3; expected a mapping of names to values"),
    (["train", "table.star", "--set", "methods.em.rate=1"], "--set methods.em.rate=1: this command does not read this setting"),
    (["train", "table.star", "--set", "train.alone_steps=-1"], "train.alone_steps is -1; expected a number of at least 0"),
    (["train", "table.star", "--set", "train.network.width=0"], "train.network.width is 0; expected a number of at least 1"),
    (["train", "table.star", "--seed", "-1"], "seed is -1; expected a whole number from 0"),
    (["train", "table.star", "--box", "33"], "stack.box is 33; expected an even number of pixels"),
    (["train", "table.star", "--config", "."], ".: cannot be read (Is a directory); expected settings in YAML"),
    (["train", "table.star", "--out", "table.star"], "--out: table.star is a file; expected a folder to write into"),
    (["train", "table.star", "--prepared", "table.star/x"], "--prepared: table.star is a file; expected a folder"),
    (["train", "table.star", "--out", ""], "nothing is given after --out; expected a value"),
    (["train", "table.star", "--out="], "nothing is given after --out; expected a value"),
    (["prepare", "table.star", "--box", "0"], "stack.box is 0; expected an even number of pixels"),
    (["predict", "table.star", "--classes", "-1"], "--classes is -1; expected a whole number of at least 1"),
    (["predict", "table.star", "--classes", "2", "--like", "."], "--classes is 2; expected none"),
    (["simulate", "adq", "--box", "32"], "unknown dataset 'adq'; did you mean adk?"),
    (["simulate", "adk", "--seed", "-1"], "seed is -1; expected a whole number from 0"),
    (["simulate", "adk", "--set", "datasets=3"], "--set datasets=3: datasets is 3; expected a mapping of names to values"),
    (["simulate", "adk", "--set", "datasets.adk=3"], "datasets.adk is 3; expected a mapping of names to values"),
    (["report", ".", "--motions", "0"], "Invalid value for '--motions'"),
    (["mask", "table.star", "--threshold", "1", "--soft", "-1"], "Invalid value for '--soft'"),
    (["explore", ".", "--port", "99999"], "Invalid value for '--port'"),
    (["run"], "hetacumn run: the following arguments are required: notebook; expected hetacumn run"),
])  # fmt: skip
def test_a_mistake_is_refused_in_one_line_before_anything_is_written(refused, tmp_path, words, message):
    assert message in refused(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["table.star"]


def test_a_table_without_the_fixed_poses_of_a_model_is_refused_before_preparation(refused, tmp_path):
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed/start.safetensors").touch()
    (tmp_path / "fixed/config.json").write_text('{"initial": {"poses": "fixed"}}')
    columns = "_rlnImageName #1\n_rlnMagnification #2\n_rlnDetectorPixelSize #3\n_rlnVoltage #4\n_rlnSphericalAberration #5\n"
    rows = "1@stack.mrcs 10000 3.0 300 2.7\n"
    (tmp_path / "stack.star").write_text(f"data_particles\n\nloop_\n{columns}{rows}")
    said = refused("predict", "stack.star", "--model", "fixed", "--grade", "searched", "--out", "new")
    assert "stack.star: no column rlnAngleRot, rlnAngleTilt, rlnAnglePsi; expected the angles of each particle" in said
    assert not (tmp_path / "new").exists()


def test_a_misspelt_section_of_a_file_is_refused_with_the_nearest_name(refused, tmp_path):
    (tmp_path / "my.yaml").write_text("trian: {rate: 1}\n")
    assert "my.yaml: unknown setting trian; did you mean train?" in refused("train", "table.star", "--config", "my.yaml")
    (tmp_path / "my.yaml").write_text("train: {ab_initio: {consensus: {step: 1}}}\n")
    found = refused("train", "table.star", "--config", "my.yaml")
    assert "my.yaml: unknown setting train.ab_initio.consensus.step; did you mean train.ab_initio.consensus.steps?" in found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a simulated stack and settings for a toy; later fixtures train and predict in it."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my.yaml").write_text(yaml.safe_dump({"stack": {"box": 24}, "train": QUICK}))
    done = hetacumn(folder, "simulate", "adk", "--out", "toy", "--particles", 120, "--box", 64, "--snr", 1,
                    "--set", "datasets.adk.pixel_A=1.6")  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> subprocess.CompletedProcess:
    return hetacumn(folder, "train", "toy/particles.star", "--config", "my.yaml", "--classes", 2, "--seed", 1,
                    "--set", "train.alone_steps=40")  # fmt: skip


@pytest.fixture(scope="module")
def predicted(folder, trained) -> subprocess.CompletedProcess:
    return hetacumn(folder, *shlex.split(next_command(trained))[1:])  # the next command that training prints


@needs_data
@pytest.mark.slow
class TestFromAnEmptyFolder:
    """Simulate, train, predict, report, compare and export a toy stack, one after the other, as a user does."""

    def test_training_uses_the_given_settings_and_prints_the_next_command(self, folder, trained):
        assert trained.returncode == 0, trained.stderr[-3000:]
        config = json.loads((folder / "results/mine/config.json").read_text())
        assert (config["config"]["classes"], config["config"]["seed"], config["config"]["alone_steps"]) == (2, 1, 40)
        assert config["config"]["network"]["width"] == QUICK["network"]["width"] and config["box"] == 24
        *_, result, place, following = trained.stdout.splitlines()
        assert result.startswith("hetacumn: trained on 84 of 120 particles, 2 classes")
        assert place == "results: results/mine"
        assert following == "next: hetacumn predict toy/particles.star --out results/mine"
        assert (folder / "results/mine" / Path(NOTEBOOKS["train"]).name).is_file()
        assert "warning: toy/particles.star: 120 particles are few" in trained.stderr

    def test_prediction_and_report_write_their_files_and_figures(self, folder, predicted):
        assert predicted.returncode == 0, predicted.stderr[-3000:]
        assert len(star.read_table(folder / "results/mine/predictions.star")) == 120
        reported = hetacumn(folder, *shlex.split(next_command(predicted))[1:])
        assert reported.returncode == 0, reported.stderr[-3000:]
        assert next_command(reported) == "hetacumn explore results/mine"
        figures = {path.name for path in (folder / "results/mine/report").iterdir()}
        assert {"fsc.png", "landscape.png", "views.png", Path(NOTEBOOKS["report"]).name} <= figures
        assert ".lock" not in figures and not (folder / "results/mine/.lock").exists()

    def test_a_prediction_compared_with_itself_agrees_completely(self, folder, predicted):
        compared = hetacumn(folder, "compare", "results/mine", "results/mine", "--out", "same")
        assert compared.returncode == 0, compared.stderr[-3000:]
        assert json.loads((folder / "same/agreement.json").read_text())["classes"] == 1.0
        assert "agreement of 120 particles: classes 1.000" in compared.stdout

    def test_an_export_contains_the_chosen_particles(self, folder, predicted):
        table = star.read_table(folder / "results/mine/predictions.star").particles
        (folder / "rows.txt").write_text("3 1\n120\n")
        done = hetacumn(folder, "export", "results/mine", "--rows", "rows.txt", "--to", "some/three")
        assert done.returncode == 0, done.stderr
        names = star.read_table(folder / "some/three.star").particles["rlnImageName"].tolist()
        assert names == table["rlnImageName"].iloc[[0, 2, 119]].tolist() and (folder / "some/three.mrc").is_file()
        assert f"\nresults: some\nnext: hetacumn train some/three.star --data-dir {folder / 'toy'} " in done.stdout
        done = hetacumn(folder, "export", "results/mine", "--class", "1", "--to", "some/one")
        assert len(star.read_table(folder / "some/one.star")) == (table["rlnClassNumber"].astype(int) == 1).sum()
        gains = pd.read_csv(folder / "results/mine/latents.csv")["log_likelihood_ratio"]
        done = hetacumn(
            folder, "export", "results/mine", "--class", "1", "--min-gain", str(gains.median()), "--to", "some/best"
        )
        assert done.returncode == 0, done.stderr
        best = (gains >= gains.median()) & (table["rlnClassNumber"].astype(int) == 1)
        assert (folder / "some/best_rows.txt").read_text().split() == [str(row + 1) for row in best.to_numpy().nonzero()[0]]
        done = hetacumn(folder, "export", "results/mine", "--rows", "some/best_rows.txt", "--to", "some/again")
        assert (folder / "some/again.star").read_bytes() == (folder / "some/best.star").read_bytes()
        done = hetacumn(folder, "export", "results/mine", "--class", "9", "--to", "some/nine")
        assert done.returncode == 2 and "class 9 has no particles; expected one of the classes 1 to 2" in done.stderr

    def test_explore_starts_jupyterlab_in_the_working_directory_with_a_notebook_for_the_run(self, folder, predicted, tmp_path):
        (tmp_path / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
        places = {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "JUPYTER_CONFIG_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "hetacumn.cli", "explore", "results/mine", "--no-browser", "--port", "0"]
        process = subprocess.Popen(command, cwd=folder, env=environment() | places, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not (servers := list(tmp_path.glob("runtime/jpserver-*.json"))) and time.monotonic() < deadline:
                time.sleep(0.2)
            server = json.loads(servers[0].read_text())
            assert server["root_dir"] == str(folder) and server["pid"] == process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        cells = json.loads((folder / "results/mine/explore.ipynb").read_text())["cells"]
        (injected,) = [cell for cell in cells if "injected-parameters" in cell["metadata"].get("tags", [])]
        assert f'folder = "{folder / "results/mine"}"' in "".join(injected["source"])

    def test_interrupted_training_prints_the_checkpoint_from_which_it_continues(self, folder):
        words = ["train", "toy/particles.star", "--config", "my.yaml", "--out", "stopped", "--set", "train.alone_steps=100000",
                 "--set", "train.checkpoint_seconds=0.2"]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "hetacumn.cli", *words], cwd=folder, env=environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
        deadline = time.monotonic() + 900
        while not (folder / "stopped/checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        refused = hetacumn(folder, *words)
        assert refused.returncode == 2 and f"stopped: in use by process {process.pid}" in refused.stderr
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 130
        assert said.splitlines()[-1] == "interrupted: the same command resumes from stopped/checkpoint.pt"

    def test_a_users_own_dataset_is_simulated_outside_a_project(self, folder):
        settings = {"datasets": {"own": {"structure": "adk", "states": ["open"], "particles": 3, "box": 32, "pixel_A": 3.2}}}
        (folder / "own.yaml").write_text(yaml.safe_dump(settings))
        done = hetacumn(folder, "simulate", "own", "--config", "own.yaml", "--data-dir", REPO / "data", "--out", "own")
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(star.read_table(folder / "own/particles.star")) == 3


def next_command(done: subprocess.CompletedProcess) -> str:
    """Return the next command that a finished command prints."""
    return done.stdout.splitlines()[-1].removeprefix("next: ")
