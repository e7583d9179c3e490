"""Baseline programs (RELION, cryoDRGN): time limits, settings, and reading of their results.

Stand-in scripts replace the programs; some tests also run the real programs if they are installed.
"""

import json
import os
import pickle
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hetacumn.baselines import cryodrgn, relion
from hetacumn.baselines.peer import PeerTask, run_peer
from hetacumn.baselines.process import find_program, run_bounded
from hetacumn.common.errors import HetacumnError
from hetacumn.evaluation.scores import score_folder
from hetacumn.io import star
from hetacumn.io.mrc import read_volumes
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.rotations import distance_deg, random_rotations, to_euler
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

REPO = Path(__file__).resolve().parents[1]


def python(code):
    return [sys.executable, "-c", code]


def test_a_program_that_ends_is_reported_as_finished_and_its_output_is_logged(tmp_path):
    log = tmp_path / "logs" / "log"
    outcome = run_bounded(python("print('well'); import sys; print('done', file=sys.stderr)"), log, 60)
    assert outcome.finished and outcome.seconds < 30
    assert {"well", "done"} <= set(log.read_text().split())


def test_the_error_of_a_failed_program_quotes_its_output(tmp_path):
    with pytest.raises(HetacumnError, match=r"exit status 3 after .*(?s:.*)no such reference"):
        run_bounded(python("print('no such reference'); raise SystemExit(3)"), tmp_path / "log", 60)


def test_at_the_limit_a_program_and_its_children_are_stopped(tmp_path, monkeypatch):
    """The program ignores SIGTERM."""
    monkeypatch.setattr("hetacumn.baselines.process.GRACE_SECONDS", 1.0)
    child = "import time; time.sleep(600)"
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)\n"
        "time.sleep(600)"
    )
    outcome = run_bounded(python(code), tmp_path / "log", 3, poll=0.1)
    assert not outcome.finished and outcome.seconds < 3 and 12 <= outcome.clock_seconds < 30
    pid = int((tmp_path / "log").read_text().split()[-1])
    for _ in range(50):
        if not alive(pid):
            return
        time.sleep(0.1)
    pytest.fail("the child still runs")


def test_the_limit_counts_processor_time_including_children(tmp_path):
    work = "import time\nwhile time.process_time() < 1.5: pass"
    code = f"import subprocess, sys; [subprocess.run([sys.executable, '-c', {work!r}]) for _ in range(4)]"
    whole = run_bounded(python(f"import time; time.sleep(3); {code}"), tmp_path / "log", 60, poll=0.1)
    assert whole.finished and 6 <= whole.seconds < 12 and whole.clock_seconds > whole.seconds
    part = run_bounded(python(code), tmp_path / "log", 3, poll=0.1)
    assert not part.finished and 3 <= part.seconds < 5


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_absent_program_is_reported_with_a_hint():
    with pytest.raises(HetacumnError, match="no-such-program: not found on the PATH; install it"):
        find_program("no-such-program", hint="install it")


def test_a_program_in_a_relative_folder_is_found_from_another_working_directory(tmp_path, monkeypatch):
    program = tmp_path / "environment/bin/peer"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    outcome = run_bounded([find_program("peer", "environment/bin")], tmp_path / "log", 20, cwd=program.parent)
    assert outcome.finished and str(program.parent) in (tmp_path / "log").read_text()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("particles")
    data = os.path.join(os.path.dirname(__file__), "..", "data")
    if not os.path.exists(os.path.join(data, "adk.npz")):
        pytest.skip("data/ is absent: run `dvc pull`")
    settings = {"structure": "adk", "states": ["open", "closed"], "particles": 200, "box": 64, "pixel_A": 1.6, "snr": 0.5}
    simulate_stack(Simulation.from_params(settings), folder, 0, data, progress=False)
    return folder / "particles.star"


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    return prepare_stack(source, tmp_path_factory.mktemp("exported"), Preprocessing(box=32), progress=False)


def test_relion_predictions_are_sorted_into_the_order_of_the_stack(exported, tmp_path):
    generator = torch.Generator().manual_seed(0)
    rotations, classes = random_rotations(200, generator), torch.arange(200) % 3
    order = torch.randperm(200, generator=generator)
    table = star.read_table(exported.star)
    rows = table.particles.iloc[order.numpy()].copy()
    rows[star.ANGLES] = to_euler(rotations[order]).numpy()
    rows[star.ORIGINS] = np.stack([order.numpy(), -order.numpy()], 1) * 0.01
    rows["rlnClassNumber"] = classes[order].numpy() + 1
    star.write_table(tmp_path / "run_it025_data.star", rows, table.optics)
    found = relion.read_predictions(tmp_path / "run_it025_data.star", exported)
    assert found.names == exported.metadata.names and torch.equal(found.classes, classes)
    assert distance_deg(found.rotations, rotations).max() < 0.01
    torch.testing.assert_close(found.shifts_A[:, 0], -0.01 * torch.arange(200.0), rtol=0, atol=1e-4)
    assert found.latents.shape == (200, 3) and torch.equal(found.latents.argmax(1), classes)

    star.write_table(tmp_path / "short.star", rows.iloc[1:], table.optics)
    with pytest.raises(HetacumnError, match="199 particles; expected each of the 200 prepared particles once"):
        relion.read_predictions(tmp_path / "short.star", exported)


@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="RELION is not installed")
def test_the_real_relion_runs_and_its_predictions_are_read(exported, tmp_path):
    config = relion.RelionConfig(
        healpix_order=1, initial_iterations=(3, 3, 3), class3d_iterations=2, subsets=(30, 60), max_significant=50, threads=1
    )
    found, outcome = relion.run(exported, tmp_path / "relion", 2, 95.0, 300.0, config)
    assert outcome.finished and len(found) == 200
    assert set(found.classes.tolist()) <= {0, 1} and torch.isfinite(found.shifts_A).all()


FAKE_RELION = """#!{python}
import sys
sys.path[:0] = {path!r}
import numpy as np, torch
from hetacumn.io import star
from hetacumn.physics.rotations import to_euler
given = dict(zip(sys.argv[1::1], sys.argv[2::1]))
print("fake", *sys.argv[1:])
if {fails}:
    raise SystemExit("no memory left")
table, truth = star.read_table(given["--i"]), np.load({truth!r})
rows = table.particles.copy()
rows[star.ANGLES] = to_euler(torch.from_numpy(truth["rotations"])).numpy()
rows[star.ORIGINS] = -truth["shifts_A"]
rows["rlnClassNumber"] = truth["classes"] + 1
star.write_table(given["--o"] + "_it007_data.star", rows, table.optics)
open(given["--o"] + "_it007_model.star", "w").write("")
"""


def put_fake_relion(folder, monkeypatch, truth, fails=False):
    folder.mkdir()
    script = folder / "relion_refine"
    script.write_text(FAKE_RELION.format(python=sys.executable, path=[str(REPO)], truth=str(truth), fails=fails))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_baseline_program_writes_the_same_files_as_every_method(source, tmp_path, monkeypatch):
    """The stand-in for RELION returns the true poses and classes, so the class volumes match the true ones."""
    put_fake_relion(tmp_path / "bin", monkeypatch, source.parent / "truth.npz")
    settings = {"program": "relion", "healpix_order": 1}
    found = run_peer(settings, PeerTask(source, Preprocessing(box=32), 2, 60.0, tmp_path), tmp_path / "relion")
    assert {path.name for path in (tmp_path / "relion").iterdir()} == {"predictions.star", "latents.csv", "run.json", "volumes"}
    run = json.loads((tmp_path / "relion/run.json").read_text())
    assert run["finished"] and run["given_seconds"] == 60.0 and run["settings"] == {"healpix_order": 1}
    assert "git_commit" in run
    commands = [line for line in (tmp_path / "relion.work/run/relion.log").read_text().splitlines() if line[0] == "$"]
    assert "--sgd" in commands[0] and "--healpix_order 1" in commands[0] and "--ref" in commands[1]
    truth = Truth.read(source.parent / "truth.npz")
    assert distance_deg(found.rotations, truth.rotations).max() < 0.01
    true_volumes, voxel_A = read_volumes(source.parent, "truth_class")
    score = score_folder(tmp_path / "relion", truth, star.read_table(source).names(), true_volumes, voxel_A)
    assert score.row["accuracy"] == 1 and score.row["resolution_A"] < 15


def test_a_failed_or_absent_baseline_program_leaves_only_the_reason_in_run_json(source, tmp_path, monkeypatch):
    put_fake_relion(tmp_path / "bin", monkeypatch, source.parent / "truth.npz", fails=True)
    for name, settings, reason in (
        ("relion", {"program": "relion"}, "no memory left"),
        ("drgnai", {"program": "cryodrgn", "command": "abinit"}, "cryodrgn: not found"),
    ):
        (tmp_path / name / "volumes").mkdir(parents=True)  # left by an earlier run
        for left in ("predictions.star", "latents.csv", "volumes/class_1.mrc"):
            (tmp_path / name / left).touch()
        assert run_peer(settings, PeerTask(source, Preprocessing(box=32), 2, 60.0, tmp_path), tmp_path / name) is None
        assert [path.name for path in (tmp_path / name).iterdir()] == ["run.json"]
        run = json.loads((tmp_path / name / "run.json").read_text())
        assert reason in run["no_answer"] and not run["finished"]
    with pytest.raises(HetacumnError, match="unknown setting relion.colour"):
        run_peer({"program": "relion", "colour": 1}, PeerTask(source, Preprocessing(box=32), 2, 60.0, tmp_path), tmp_path / "x")
    with pytest.raises(HetacumnError, match="program is 'frealign'; expected one of relion, cryodrgn"):
        run_peer({"program": "frealign"}, PeerTask(source, Preprocessing(box=32), 2, 60.0, tmp_path), tmp_path / "x")


def test_an_absent_relion_is_reported_and_nothing_is_written(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HetacumnError, match="relion_refine: not found"):
        relion.run(exported, tmp_path / "out", 2, 95.0, 10.0)
    assert not (tmp_path / "out").exists()


def write_epoch(folder, epoch, rotations, translations, z, more=()):
    for name, content in (("z", (z, *more)), ("pose", ((rotations, translations),))):
        with open(folder / f"{name}.{epoch}.pkl", "wb") as file:
            for part in content:
                pickle.dump(part, file)


@pytest.mark.parametrize("command, unit", [("abinit_het_old", 32.0), ("abinit", 1.0)])
def test_cryodrgn_predictions_are_read_in_the_units_of_the_command(exported, tmp_path, command, unit):
    generator = torch.Generator().manual_seed(0)
    rotations, classes = random_rotations(200, generator), torch.arange(200) % 2
    shifts_px = torch.randn(200, 2, generator=generator)
    z = (classes[:, None] * 4.0 + 0.1 * torch.randn(200, 4, generator=generator)).numpy()
    write_epoch(tmp_path, 7, rotations.numpy(), -shifts_px.numpy() / unit, z, more=(0 * z,))
    config = cryodrgn.CryodrgnConfig(command=command)
    found = cryodrgn.read_predictions(tmp_path, 7, exported, 2, config)
    assert found.names == exported.metadata.names and cryodrgn._last_epoch(tmp_path) == 7
    torch.testing.assert_close(found.rotations, rotations)
    torch.testing.assert_close(found.shifts_A, 3.2 * shifts_px, rtol=1e-4, atol=1e-4)
    agree = (found.classes == classes).float().mean()
    assert agree in (0, 1)

    write_epoch(tmp_path, 8, rotations[1:].numpy(), shifts_px[1:].numpy(), z)
    with pytest.raises(HetacumnError, match=r"epoch 8 .*expected one row for each of 200 particles"):
        cryodrgn.read_predictions(tmp_path, 8, exported, 2, config)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_a_pickle_of_more_than_arrays_is_refused_and_runs_no_code(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("z.0.pkl", "wb") as file:
        pickle.dump(Evil(), file)
    with pytest.raises(HetacumnError, match=r"z.0.pkl: holds \w+.system; expected only NumPy arrays"):
        cryodrgn.read_predictions(tmp_path, 0, exported, 2, cryodrgn.CryodrgnConfig())
    assert not (tmp_path / "evil").exists()


FAKE_CRYODRGN = """#!{python}
import pickle, sys
from pathlib import Path
import numpy as np
command, given = sys.argv[1], sys.argv[2:]
print(" ".join(sys.argv[1:]))
assert Path(given[0]).is_file(), given[0]
out = Path(given[given.index("-o") + 1])
if command == "parse_ctf_star":
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(b"ctf")
else:
    assert Path(given[given.index("--ctf") + 1]).is_file()
    for name, content in (("z", np.zeros((200, 4))), ("pose", (np.tile(np.eye(3), (200, 1, 1)), np.zeros((200, 2))))):
        (out / (name + ".0.pkl")).write_bytes(pickle.dumps(content))
"""


@pytest.mark.parametrize("changes, words", [
    ({"base_healpy": 2}, ["abinit_het_old particles.mrcs --ctf", "--base-healpy 2", "--enc-dim 64", "--no-amp", "-n 100"]),
    ({"command": "abinit"}, ["abinit particles.mrcs --ctf", "--epochs-pose-search 2", "--dim 64", "--num-workers 0"]),
    ({"command": "abinit", "conf_encoder": True}, ["--use-conf-encoder"]),
])  # fmt: skip
def test_cryodrgn_gets_the_stack_and_its_settings_from_relative_paths(exported, tmp_path, monkeypatch, changes, words):
    program = tmp_path / "venv/bin/cryodrgn"
    program.parent.mkdir(parents=True)
    program.write_text(FAKE_CRYODRGN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.chdir(exported.folder.parent)
    here = replace(exported, folder=Path(exported.folder.name))
    venv = os.path.relpath(tmp_path / "venv")
    found, outcome = cryodrgn.run(here, tmp_path / "out", 2, 60.0, venv, cryodrgn.CryodrgnConfig(**changes))
    assert outcome.finished and len(found) == 200
    log = (tmp_path / "out/cryodrgn.log").read_text()
    assert all(word in log for word in words), log


PEERS = REPO / ".venv-peers"


@pytest.mark.skipif(not (PEERS / "bin/cryodrgn").exists(), reason="no cryoDRGN: run `make peers`")
@pytest.mark.parametrize("changes", [{}, {"command": "abinit"}, {"command": "abinit", "conf_encoder": True}], ids=str)
def test_the_real_cryodrgn_runs_and_its_predictions_are_read(exported, tmp_path, changes):
    config = cryodrgn.CryodrgnConfig(**changes, epochs=2, search_epochs=1, width=32, layers=1, l_end=6, pretrain_images=120)
    found, outcome = cryodrgn.run(exported, tmp_path / "out", 2, 400.0, PEERS, config)
    assert len(found) == 200 and set(found.classes.tolist()) == {0, 1}
    assert torch.isfinite(found.shifts_A).all() and (torch.linalg.det(found.rotations) - 1).abs().max() < 1e-3
    assert outcome.finished


def test_an_absent_cryodrgn_is_reported(exported, tmp_path):
    with pytest.raises(HetacumnError, match="cryodrgn: not found in .*make peers"):
        cryodrgn.run(exported, tmp_path / "out", 2, 10.0, tmp_path)
