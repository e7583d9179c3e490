"""Programs at given poses (RECOVAR, cryoDRGN): their input files, and their latents and volumes as read by this package.

Stand-in scripts replace the programs; some tests also run the real programs if they are installed.
"""

import pickle
import subprocess
import sys
from pathlib import Path

import cryobench
import cryobench_references
import numpy as np
import pandas as pd
import pytest
import torch
from cryobench_sets import BOX

from hetacumn.baselines import cryodrgn, recovar
from hetacumn.baselines.pickles import CTF, POSES, load_arrays, write_ctf_and_poses
from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.io.mrc import read_volumes
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.physics.fourier import crop_volumes
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

REPO = Path(__file__).resolve().parents[1]
VENVS = {"recovar": REPO / ".venv-recovar", "cryodrgn": REPO / ".venv-peers"}
needs_data = pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")

# A stand-in for both programs. The first command checks the poses, and writes the true class as the first entry of z. The other
# command writes the true volume of the class that is nearest to the first entry of each point.
FAKE = """#!{python}
import pickle, sys
from pathlib import Path
sys.path[:0] = {path!r}
import numpy as np, torch
from hetacumn.io.mrc import read_volumes, write_mrc
from hetacumn.physics.fourier import crop_volumes
command, *given = sys.argv[1:]
print(command, *given)
option = dict(zip(given, given[1:]))
out, particles = Path(option["-o"]), Path({particles!r})
if command in ("pipeline", "train_vae"):
    assert Path(given[0]).is_file()
    ctf, (rotations, translations) = (pickle.loads(Path(option[name]).read_bytes()) for name in ("--ctf", "--poses"))
    truth = np.load(particles / "truth.npz")
    assert ctf.shape == (len(truth["classes"]), 9) and np.abs(rotations - truth["rotations"]).max() < 1e-4
    z = np.zeros((len(ctf), int(option["--zdim"])))
    z[:, 0] = truth["classes"]
    z += np.random.default_rng(0).normal(0, 1e-3, z.shape)
    if command == "pipeline":
        (out / "model").mkdir()
        (out / "model/embeddings.pkl").write_bytes(pickle.dumps(dict(zs={{z.shape[1]: z, str(z.shape[1]) + "_noreg": 0 * z}})))
    else:
        (out / "z.3.pkl").write_bytes(pickle.dumps(z) + pickle.dumps(0 * z))
        (out / "weights.3.pkl").write_bytes(b"weights")
else:
    volumes, voxel_A = read_volumes(particles, "truth_class")
    points = np.loadtxt(option["--latent-points" if command == "compute_state" else "--zfile"], ndmin=2)
    name = "all_volumes/vol{{:04d}}.mrc" if command == "compute_state" else "vol_{{:03d}}.mrc"
    for row, point in enumerate(points):
        write_mrc(out / name.format(row), crop_volumes(volumes, {box})[round(point[0])], 1.0)
"""


def put_fake(folder, program, particles, box):
    """Write the stand-in for a program into an environment folder; return this folder."""
    script = folder / "bin" / program
    script.parent.mkdir(parents=True)
    script.write_text(FAKE.format(python=sys.executable, path=[str(REPO)], particles=str(particles), box=box))
    script.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def posed(tmp_path_factory):
    """A prepared stack of 300 images of adenylate kinase whose table has the true poses."""
    folder = tmp_path_factory.mktemp("posed")
    if not (REPO / "data/adk.npz").exists():
        pytest.skip("data/ is absent: run `dvc pull`")
    settings = {"structure": "adk", "states": ["open", "closed"], "particles": 300, "box": 64, "pixel_A": 1.6, "snr": 0.5}
    simulate_stack(Simulation.from_params(settings), folder, 0, REPO / "data", progress=False)
    table, truth = star.read_table(folder / "particles.star"), Truth.read(folder / "truth.npz")
    star.set_poses(rows := table.particles.copy(), truth.rotations, truth.shifts_A)
    star.write_table(folder / "posed.star", rows, table.optics)
    return prepare_stack(folder / "posed.star", folder / "prepared", Preprocessing(box=32), progress=False)


def test_the_pickles_hold_the_columns_of_the_particle_table(posed, tmp_path):
    write_ctf_and_poses(posed, tmp_path)
    table = star.read_table(posed.star)
    ctf, (rotations, translations) = load_arrays(tmp_path / CTF), load_arrays(tmp_path / POSES)
    assert (ctf[:, 0] == 32).all() and ctf[:, 1] == pytest.approx(posed.pixel_A)
    for column, name in ((2, "rlnDefocusU"), (3, "rlnDefocusV"), (4, "rlnDefocusAngle"), (5, "rlnVoltage")):
        assert ctf[:, column] == pytest.approx(table.numbers(name), rel=1e-5)
    assert np.abs(rotations - Truth.read(posed.source.parent / "truth.npz").rotations.numpy()).max() < 1e-4
    origins_px = np.stack([table.numbers(name) for name in star.ORIGINS], 1) / posed.pixel_A
    assert translations * 32 == pytest.approx(origins_px, abs=1e-4)


@pytest.mark.skipif(not (VENVS["cryodrgn"] / "bin/cryodrgn").exists(), reason="no cryoDRGN: run `make peers`")
def test_cryodrgn_writes_the_same_pickles_from_the_table(posed, tmp_path):
    write_ctf_and_poses(posed, tmp_path)
    for command, name in (("parse_ctf_star", CTF), ("parse_pose_star", POSES)):
        parse = [VENVS["cryodrgn"] / "bin/cryodrgn", command, posed.star, "-o", tmp_path / f"its-{name}"]
        subprocess.run(list(map(str, parse)), check=True, capture_output=True)
        own, its = (load_arrays(tmp_path / one) for one in (name, f"its-{name}"))
        for a, b in zip(*(one if isinstance(one, tuple) else (one,) for one in (own, its)), strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


def test_a_stack_without_poses_is_refused(posed, tmp_path):
    bare = prepare_stack(posed.source.with_name("particles.star"), tmp_path / "bare", Preprocessing(box=32), progress=False)
    for program in (recovar, cryodrgn):
        with pytest.raises(HetacumnError, match=r"not found in .*create the environment with `make"):
            program.embed(posed, tmp_path, 10.0, tmp_path)
        venv = put_fake(tmp_path / program.__name__, program.__name__.split(".")[-1], posed.source.parent, 32)
        with pytest.raises(HetacumnError, match=r"particles.star: no poses; expected rlnAngleRot"):
            program.embed(bare, tmp_path, 10.0, venv)


@pytest.mark.parametrize(("program", "words"), [
    (recovar, ["pipeline", "--mask sphere", "--zdim 4", "--accept-cpu", "--low-memory-option"]),
    (cryodrgn, ["train_vae", "--zdim 4", "--enc-dim 64", "--dec-layers 3", "--no-amp"]),
])  # fmt: skip
def test_a_program_gets_the_poses_and_its_latents_and_volumes_are_read(posed, tmp_path, program, words):
    truth = Truth.read(posed.source.parent / "truth.npz")
    venv = put_fake(tmp_path / "venv", name := program.__name__.split(".")[-1], posed.source.parent, 32)
    z, outcome = program.embed(posed, tmp_path / "out", 60.0, venv)
    assert outcome.finished and z.shape == (300, 4)
    torch.testing.assert_close(z[:, 0], truth.classes.float(), rtol=0, atol=0.01)
    log = (tmp_path / f"out/{name}.log").read_text()
    assert all(word in log for word in words), log
    volumes, _ = program.make_volumes(tmp_path / "out", z[[3, 5, 7]], 60.0, venv)
    true = crop_volumes(read_volumes(posed.source.parent, "truth_class")[0], 32)
    torch.testing.assert_close(volumes, true[truth.classes[[3, 5, 7]]])


@pytest.mark.parametrize(("program", "config"), [
    (recovar, recovar.RecovarConfig()), (cryodrgn, cryodrgn.CryodrgnConfig(epochs=30))
], ids=["recovar", "cryodrgn"])  # fmt: skip
def test_the_real_program_finds_volumes_like_the_true_ones(posed, tmp_path, program, config):
    venv = VENVS[name := program.__name__.split(".")[-1]]
    if not (venv / "bin" / name).exists():
        pytest.skip(f"{name} is not installed")
    z, outcome = program.embed(posed, tmp_path / "out", 900.0, venv, config)
    assert len(z) == 300 and torch.isfinite(z).all()
    volumes, _ = program.make_volumes(tmp_path / "out", z.mean(0, keepdim=True), 900.0, venv)
    true = crop_volumes(read_volumes(posed.source.parent, "truth_class")[0].mean(0, keepdim=True), 32)
    assert torch.corrcoef(torch.stack([volumes[0].flatten(), true[0].flatten()]))[0, 1] > 0.5


@needs_data
def test_cryobench_scores_the_programs_by_their_own_volumes(tmp_path, monkeypatch):
    """The stand-ins know the conformations and return the true volumes, so that the area is the largest possible one."""
    small = ["--sets", "mixture-2", "--images", "260", "--box", "48", "--training-box", "48", "--points", "3",
             "--out", str(tmp_path / "runs"), "--table", str(tmp_path / "table.csv"), "--figures", str(tmp_path)]  # fmt: skip
    for program, (module, _) in list(cryobench_references.REFERENCES.items()):
        venv = put_fake(tmp_path / program, program, tmp_path / "runs/mixture-2-260-0/particles", 48)
        monkeypatch.setitem(cryobench_references.REFERENCES, program, (module, venv))
    cryobench.main([*small, "--methods", "recovar", "cryodrgn", "--poses", "fixed", "search"])
    table = pd.read_csv(tmp_path / "table.csv").set_index(["method", "poses"])
    assert table.index.tolist() == [("cryodrgn", "fixed"), ("recovar", "fixed")]
    assert table["auc_fsc"].to_numpy() == pytest.approx(23 / BOX, abs=1e-4)
    assert (table[["accuracy", "ari", "ami"]] == 1).all(axis=None) and table["rotation_median_deg"].max() < 0.1
    assert table["auc_per_conformation"].to_numpy() == pytest.approx(23 / BOX, abs=1e-4)
    logs = [tmp_path / f"runs/mixture-2-260-0/{name}-48-fixed/run/{name}.log" for name in ("recovar", "cryodrgn")]
    first = [log.read_text() for log in logs]
    table.reset_index().iloc[:0].to_csv(tmp_path / "table.csv", index=False)
    cryobench.main([*small, "--methods", "recovar", "cryodrgn"])
    for log, earlier in zip(logs, first, strict=True):  # the second run repeats only the volumes
        assert log.read_text().removeprefix(earlier).count("$ ") == 1


def test_a_program_that_stops_at_the_limit_or_fails_is_reported(posed, tmp_path):
    venv = put_fake(tmp_path / "venv", "recovar", tmp_path / "absent", 32)
    with pytest.raises(HetacumnError, match=r"(?s)exit status 1 .*truth.npz"):
        recovar.embed(posed, tmp_path / "out", 60.0, venv)
    (venv / "bin/recovar").write_text("#!/bin/sh\nwhile true; do :; done\n")
    with pytest.raises(HetacumnError, match="recovar.log: the program did not finish in 1 s; increase the time limit"):
        recovar.embed(posed, tmp_path / "out", 1.0, venv)
    (venv / "bin/recovar").write_text(f"#!/bin/sh\nmkdir -p '{tmp_path}/out/model'\n")
    (tmp_path / "out/model").mkdir(parents=True)
    (tmp_path / "out/model/embeddings.pkl").write_bytes(pickle.dumps({"zs": {4: np.zeros((3, 4))}}))
    with pytest.raises(HetacumnError, match=r"embeddings.pkl: latents \(3, 4\); expected 4 numbers for each of 300 images"):
        recovar.embed(posed, tmp_path / "out", 60.0, venv)
