"""From an EMPIAR entry to a reconstruction: the notebooks of real/, on a toy entry from a local server."""

import shutil

import mrcfile
import pandas as pd
import pytest
from kills import TOY
from test_empiar import Server
from test_pipeline import REPO, make_project, run

from hetacumn.io import star
from hetacumn.simulation.settings import Simulation
from hetacumn.simulation.simulate import simulate_stack

pytestmark = pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return an archive with entry 10076: its real file names, with simulated particles."""
    made = tmp_path_factory.mktemp("made")
    settings = {"structure": "adk", "states": ["open", "closed"], **TOY}
    simulate_stack(Simulation.from_params(settings), made, 0, REPO / "data", progress=False)
    folder = tmp_path_factory.mktemp("archive")
    data = folder / "10076/data"
    data.mkdir(parents=True)
    shutil.copy(made / "particles.mrcs", data / "L17.mrcs")
    table = star.read_table(made / "particles.star")
    table.particles["rlnImageName"] = table.particles["rlnImageName"].str.replace("particles.mrcs", "L17.mrcs")
    star.write_table(data / "Parameters.star", table.particles, table.optics)
    return folder


@pytest.fixture(scope="module")
def done(project, archive):
    server = Server(archive)
    out = "results/empiar-10076"
    stack = ("particles", f"{out}/particles/particles.star")
    for notebook, *arguments in (
        ("real/1_download", "entry", 10076, "count", 100, "base_url", server.url, "out", f"{out}/particles"),
        ("real/2_prepare", *stack, "out", f"{out}/prepared"),
        ("pipeline/2_train", *stack, "prepared", f"{out}/prepared", "classes", 2, "out", f"{out}/hetacumn"),
        (
            *("pipeline/3_predict", *stack, "prepared", f"{out}/prepared", "grade", "refined"),
            *("model", f"{out}/hetacumn", "out", f"{out}/refined"),
        ),
        ("real/3_report", "name", "empiar-10076", "-o", f"{out}/3_report.ipynb"),
    ):
        ran = run(project, notebook, *arguments)
        assert ran.returncode == 0, (notebook, ran.stderr[-3000:])
    server.server.shutdown()
    return project


def test_the_report_writes_figures_half_maps_and_fsc_curves(done):
    figures = {path.name for path in (done / "figures/empiar-10076").iterdir()}
    assert figures == {
        f"{name}.png"
        for name in ("landscape", "energy", "classes", "path_1", "path_2", "fsc", "views", "defocus", "particles", "settled")
    }
    folder = done / "results/empiar-10076/refined"
    halves = {path.name for path in (folder / "halves").iterdir()}
    assert halves == {f"{group}{half}.mrc" for group in ("all", "class_1", "class_2") for half in ("", "_half1", "_half2")}
    with mrcfile.open(folder / "halves/all_half1.mrc") as mrc:
        assert mrc.data.shape == (24,) * 3 and float(mrc.voxel_size.x) == pytest.approx(1.6 * 64 / 24, rel=1e-3)
    table = pd.read_csv(folder / "fsc.csv")
    assert table.columns.tolist() == ["frequency_per_A", "all", "class 1", "class 2"]
    assert table["all"].iloc[1] > 0.5


def test_the_chimerax_script_opens_existing_volumes(done):
    folder = done / "results/empiar-10076/refined"
    opened = [line.split()[1] for line in (folder / "motion_1.cxc").read_text().splitlines() if line.startswith("open ")]
    assert len(opened) == 10 and all((folder / name).is_file() for name in opened)
    assert (folder / "motion_1.gif").is_file()


def test_an_entry_of_unknown_layout_is_refused(project):
    ran = run(project, "real/1_download", "entry", 99999, "out", "results/none")
    assert ran.returncode == 2
    assert "entry 99999; expected one of 10180, 10076, 10028" in ran.stderr.strip().splitlines()[-1]
