"""The Python API: what its import loads, the names that it lists, and the five statements of the README on a toy stack."""

import subprocess
import sys
from pathlib import Path

import kills
import numpy as np
import pytest

import hetacumn
from hetacumn.evaluation.scores import accuracy
from hetacumn.network.config import load_config
from hetacumn.run.api import __all__, simulate, train

REPO = Path(__file__).resolve().parents[1]
ADK = {"structure": "adk", "states": ["open", "closed"]}
TOY = kills.QUICK | {"alone_steps": 40, "joint_epochs": 1.0, "batch": 50, "checkpoint_seconds": 60.0}


def test_the_import_loads_no_heavy_package_and_dir_lists_the_names():
    code = ("import sys, hetacumn\nassert {'train', 'plots', 'Answer'} <= set(dir(hetacumn))\n"
            "print([name for name in ('torch', 'numpy', 'pandas', 'matplotlib') if name in sys.modules])")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_package_lists_the_names_of_its_api():
    assert {*__all__, "evaluation", "plots"} == set(hetacumn.__all__) <= set(dir(hetacumn))
    assert hetacumn.train is train and hetacumn.plots.style and accuracy
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        hetacumn.trian  # noqa: B018


def test_an_unknown_setting_is_refused_with_the_nearest_before_anything_is_made(tmp_path):
    with pytest.raises(hetacumn.HetacumnError, match=r"unknown setting stack.contrats; did you mean stack.contrast\?"):
        hetacumn.prepare("absent.star", tmp_path / "out", contrats="white")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    simulate(ADK, folder, data_dir=REPO / "data", progress=False, **kills.TOY)
    return folder


@pytest.fixture(scope="module")
def run(toy) -> hetacumn.Run:
    stack = hetacumn.prepare(toy / "particles.star", box=24, progress=False)
    assert stack.folder == toy / "particles_24px" and stack.box == 24
    return hetacumn.train(stack, classes=2, out=toy / "mine", trained_share=0.5, **TOY)


@pytest.mark.slow
@pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
class TestFiveLines:
    def test_nested_and_dotted_settings_are_equivalent(self, run):
        config = load_config(run.folder)
        assert (config.classes, config.alone_steps, config.ab_initio.subspace_steps) == (2, 40, 8)
        flat = {name: value for name, value in TOY.items() if name != "ab_initio"}
        dotted = {f"ab_initio.{name}": value for name, value in TOY["ab_initio"].items()}
        before = (run.folder / "model.safetensors").stat().st_mtime_ns
        hetacumn.train(run.stack, out=run.folder, config=config, trained_share=0.5)  # already trained, so nothing is trained
        hetacumn.train(run.stack, 2, run.folder, trained_share=0.5, **flat, **dotted)
        assert (run.folder / "model.safetensors").stat().st_mtime_ns == before
        assert len(run.trained_rows) == 60 and len(np.unique(run.trained_rows)) == 60

    def test_an_unknown_setting_of_training_is_refused_before_anything_is_made(self, run, tmp_path):
        with pytest.raises(hetacumn.HetacumnError, match=r"setting train.alon_steps; did you mean train.alone_steps\?"):
            hetacumn.train(run.stack, out=tmp_path / "out", alon_steps=3)
        with pytest.raises(hetacumn.HetacumnError, match="train.ab_initio.volumes cannot be set; expected train.classes"):
            hetacumn.train(run.stack, out=tmp_path / "out", ab_initio={"volumes": 3})
        assert list(tmp_path.iterdir()) == []

    def test_a_prediction_covers_all_particles_and_can_be_reopened(self, run):
        answer = run.predict(grade="encoder")
        again = hetacumn.open(run.folder)
        assert len(answer.predictions) == 120 and answer.voxel_A == pytest.approx(64 * 1.6 / 24)
        assert (again.predictions.classes == answer.predictions.classes).all() and (again.basis == answer.basis).all()
        volume = again.reconstruct(np.arange(120))
        assert volume.shape == (24, 24, 24) and volume.std() > 0 and volume.equal(again.reconstruct())

    def test_a_reopened_run_gives_the_same_predictions(self, run, tmp_path):
        first = run.predict(grade="encoder", out=tmp_path / "first")
        second = hetacumn.Run.open(run.folder, run.stack.folder).predict(grade="encoder", out=tmp_path / "second")
        assert (first.predictions.rotations == second.predictions.rotations).all()

    def test_a_prediction_in_a_folder_in_use_is_refused(self, run):
        code = "import sys, time\nfrom hetacumn.run.lock import hold\n"
        code += "with hold(sys.argv[1]):\n print(flush=True); time.sleep(300)"
        other = subprocess.Popen([sys.executable, "-c", code, run.folder], stdout=subprocess.PIPE)
        other.stdout.readline()
        try:
            with pytest.raises(hetacumn.HetacumnError, match=f"in use by process {other.pid}"):
                run.predict(grade="encoder")
        finally:
            other.kill()
            other.wait()
