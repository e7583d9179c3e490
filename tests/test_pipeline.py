"""The pipeline notebooks in order, as a user calls them, on a toy stack; and messages for mistakes of the user."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kills
import numpy as np
import pandas as pd
import pytest
import yaml

from hetacumn.io import star

REPO = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`"),
]

TIMINGS = ["train_seconds", "predict_particles_per_second", "peak_memory_mb", "device"]
QUICK = kills.QUICK | {"alone_steps": 60, "joint_epochs": 1.0, "batch": 50, "checkpoint_seconds": 60.0}


def run(folder: Path, notebook: str, *arguments) -> subprocess.CompletedProcess:
    """Run a notebook with ``python -m hetacumn.run`` in the project folder."""
    pairs = [
        word
        for name, value in zip(arguments[::2], arguments[1::2], strict=True)
        for word in (("-o", value) if name == "-o" else ("-p", name, str(value)))
    ]
    command = [sys.executable, "-m", "hetacumn.run", f"notebooks/{notebook}.ipynb", *pairs]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"))


def make_project(folder: Path) -> Path:
    """Write a project folder with the repository's notebooks and data, and settings for a toy stack."""
    for name in ("notebooks", "data"):
        (folder / name).symlink_to(REPO / name)
    (folder / "dvc.yaml").write_text("")
    params = yaml.safe_load((REPO / "params.yaml").read_text())
    params["datasets"] = {"adk": params["datasets"]["adk"] | kills.TOY}
    params["stack"]["box"] = 24
    params["train"] = {**params["train"], **QUICK}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


@pytest.fixture(scope="module")
def done(project) -> Path:
    """Run all stages except the figures and return the folder ``results/adk``."""
    results = "results/adk"
    for notebook, *arguments in (
        ("pipeline/1_simulate", "dataset", "adk", "out", f"{results}/particles"),
        ("pipeline/2_train", "dataset", "adk", "method", "em", "out", f"{results}/em"),
        ("pipeline/3_predict", "dataset", "adk", "grade", "searched", "out", f"{results}/em"),
        ("pipeline/2_train", "dataset", "adk", "start", f"{results}/em", "out", f"{results}/hetacumn"),
        ("pipeline/3_predict", "dataset", "adk", "out", f"{results}/hetacumn"),
        *(
            ("pipeline/3_predict", "dataset", "adk", "grade", grade)
            + ("model", f"{results}/hetacumn", "out", f"{results}/hetacumn-{grade}")
            for grade in ("encoder", "refined")
        ),
        *(
            ("pipeline/4_reconstruct", "predictions", f"{results}/{method}", "out", f"{results}/{method}/maps")
            for method in ("hetacumn", "hetacumn-refined")
        ),
        ("pipeline/5_evaluate", "dataset", "adk", "out", f"{results}/evaluation"),
    ):
        ran = run(project, notebook, *arguments)
        assert ran.returncode == 0, (notebook, arguments, ran.stderr[-3000:])
    return project / results


def test_simulation_writes_a_stack_and_its_truth(done):
    names = {
        "particles.mrcs",
        "particles.star",
        "truth.npz",
        "truth_class1.mrc",
        "truth_class2.mrc",
        "config.json",
        "1_simulate.ipynb",
    }
    assert {path.name for path in (done / "particles").iterdir()} == names


def test_a_users_own_method_is_scored_and_another_dataset_is_refused(project, done):
    shutil.copytree(done / "em", done / "mine")
    ran = run(project, "pipeline/5_evaluate", "dataset", "adk", "out", "results/adk/again")
    shutil.rmtree(done / "mine")
    assert ran.returncode == 0, ran.stderr[-3000:]
    scores = pd.read_csv(done / "again/scores.csv").set_index("method")
    assert scores.index[-1] == "mine" and scores.loc["mine", "accuracy"] == scores.loc["em", "accuracy"]
    ran = run(project, "pipeline/5_evaluate", "dataset", "ribosome", "out", "results/adk/again")
    assert ran.returncode == 2 and "config.json: dataset is adk; expected ribosome" in ran.stderr


@pytest.mark.parametrize(
    "method, own",
    [
        ("em", {"start.safetensors", "2_train.ipynb", "train_rows.npy", "config.json"}),
        ("hetacumn", {"model.safetensors", "history.csv", "2_train.ipynb", "train_rows.npy", "config.json", "maps"}),
        ("hetacumn-encoder", set()),
        ("hetacumn-refined", {"maps"}),
    ],
)
def test_every_method_writes_the_same_set_of_files(done, method, own):
    folder = done / method
    names = {path.name for path in folder.iterdir()}
    assert names == own | {"predictions.star", "latents.csv", "run.json", "volumes", "3_predict.ipynb"}
    volumes = {path.name for path in (folder / "volumes").iterdir()}
    basis = {f"basis_{i}.mrc" for i in (1, 2, 3)}  # a mean and two components
    assert volumes == {"class_1.mrc", "class_2.mrc"} | basis | {f"path_{i:02d}.mrc" for i in range(1, 11)}
    given, found = (
        star.read_table(path).particles for path in (done / "particles/particles.star", folder / "predictions.star")
    )
    assert found["rlnImageName"].tolist() == given["rlnImageName"].tolist()
    assert found["rlnClassNumber"].astype(int).min() == 1
    known = ["class_probability"] + ([] if method == "hetacumn-encoder" else ["log_likelihood_ratio"]) + ["class_settled"]
    assert pd.read_csv(folder / "latents.csv").columns.tolist() == ["particle", "z1", "z2", "class", *known]
    assert {"train_seconds", "predict_particles_per_second", "peak_memory_mb", "device"} <= set(
        json.loads((folder / "run.json").read_text())
    )


def test_evaluation_scores_every_method_beside_the_bound(done):
    folder = done / "evaluation"
    assert {path.name for path in folder.iterdir()} == {
        "scores.csv",
        "fsc.csv",
        "confusion.json",
        "rotation_errors.npz",
        "aligned_volumes.npz",
        "resolution.csv",
        "full_fsc.csv",
        "full_maps.npz",
        "5_evaluate.ipynb",
    }
    scores = pd.read_csv(folder / "scores.csv")
    assert scores["method"].tolist() == ["em", "hetacumn-encoder", "hetacumn", "hetacumn-refined"]
    columns = [
        "dataset",
        "method",
        "seed",
        "accuracy",
        "accuracy_unseen",
        "accuracy_surer_half",
        "ari",
        "bound_known_pose",
        "bound_marginal",
        "rotation_error_deg",
        "rotation_bound_deg",
        "resolution_A",
        "class_from_z",
        "view_from_z_deg",
    ]
    assert set(columns) <= set(scores.columns)
    assert scores[columns].notna().all(axis=None)
    assert scores["accuracy"].between(0.5, 1).all() and (scores["bound_marginal"] > 0.9).all()
    assert (scores["rotation_bound_deg"] < 10).all()


def test_maps_of_every_state_are_scored_at_the_full_box(done):
    table = pd.read_csv(done / "evaluation/resolution.csv")
    assert table["method"].tolist() == 2 * ["hetacumn"] + 2 * ["hetacumn-refined"] and table["state"].tolist() == [1, 2, 1, 2]
    limits = ["resolution_training_box_A", "resolution_full_A", "resolution_true_poses_A", "half_map_resolution_A"]
    assert table[limits].notna().all(axis=None)
    assert (table["resolution_true_poses_A"] <= table["resolution_full_A"] + 1).all()
    assert set(pd.read_csv(done / "evaluation/full_fsc.csv")["method"]) == {"hetacumn", "hetacumn-refined", "true poses"}


def test_the_figures_and_their_table_are_written(done, project):
    ran = run(project, "pipeline/6_figures", "datasets", '["adk"]', "-o", "results/6_figures.ipynb")
    assert ran.returncode == 0, ran.stderr[-3000:]
    figures = {path.name for path in (project / "figures").iterdir()}
    names = [
        "accuracy",
        "confusion",
        "particles",
        "latents",
        "rotation_errors",
        "volumes_adk",
        "fsc",
        "training",
        "overview",
        "full_box",
        "full_box_fsc",
    ]
    assert {f"{name}.png" for name in names} | {"results.csv", "resolution.csv"} <= figures
    table = pd.read_csv(project / "figures/results.csv")
    assert table.columns.tolist() == [
        "dataset",
        "method",
        "seed",
        "accuracy",
        "accuracy_unseen",
        "accuracy_surer_half",
        "ari",
        "bound_known_pose",
        "bound_marginal",
        "rotation_error_deg",
        "rotation_bound_deg",
        "resolution_A",
    ]
    assert table.notna().all(axis=None)


def test_timings_are_written_to_their_own_table(done, project):
    command = [sys.executable, "-m", "hetacumn.run.timings", "results", "figures/timings.csv"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    ran = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout == "figures/timings.csv: timings of 4 runs\n", ran.stderr
    table = pd.read_csv(project / "figures/timings.csv").set_index("method")
    assert table.columns.tolist() == ["dataset", *TIMINGS] and table.notna().all(axis=None)
    scores = pd.read_csv(done / "evaluation/scores.csv")
    assert set(table.index) == set(scores["method"])
    for method in table.index:
        run = json.loads((done / method / "run.json").read_text())
        assert table.loc[method, TIMINGS].tolist() == [run[name] for name in TIMINGS]
    ran = subprocess.run([*command[:3], "absent", "timings.csv"], cwd=project, env=environment, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.startswith("error: absent: no run.json") and ran.stderr.count("\n") == 1


def test_an_absent_baseline_program_is_in_the_benchmark_table_without_scores(done, project):
    settings = {
        "peers": {"cryodrgn2": {"program": "cryodrgn"}}, "peer_seconds": 60, "peers_environment": "absent",
        "classes": {"adk": 2},
    }  # fmt: skip
    (project / "benchmark.yaml").write_text(yaml.safe_dump(settings))
    common = ("overrides", "benchmark.yaml")
    ran = run(
        project,
        "benchmark/1_program",
        *common,
        "dataset",
        "adk",
        "peer",
        "cryodrgn2",
        "out",
        "results/adk/cryodrgn2",
        "particles",
        "results/adk/particles/particles.star",
    )
    assert ran.returncode == 0 and "cryodrgn2 returned no prediction" in ran.stdout, ran.stderr[-3000:]
    ablated = project / "results/benchmark/ablation/adk/ablation-none/0"
    shutil.copytree(done / "hetacumn", ablated)
    seen_less = project / "results/benchmark/share/adk/10"
    shutil.copytree(done / "hetacumn", seen_less)
    np.save(seen_less / "train_rows.npy", np.load(done / "hetacumn/train_rows.npy")[:12])
    before = {"dataset": "elsewhere", "snr": 1.0, "particles": 120, "method": "hetacumn", "seed": 0, "trained_share": 0.7}
    stale = before | {"dataset": "adk", "accuracy": 0.123}
    pd.DataFrame([before | {"accuracy": 0.9}, stale]).to_csv(project / "benchmark.csv", index=False)
    ran = run(
        project,
        "benchmark/2_tables",
        *common,
        "table_path",
        "benchmark.csv",
        "out",
        "benchmark_figures",
        "-o",
        "results/2_tables.ipynb",
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    table = pd.read_csv(project / "benchmark.csv")
    missing = table[table["method"] == "cryodrgn2"].iloc[0]
    assert "not found" in missing["settings"] and not missing["finished"] and pd.isna(missing["accuracy"])
    assert missing["bound_marginal"] > 0.9
    for method, share in (("em", 0.7), ("hetacumn-refined", 0.7), ("ablation-none", 0.7)):
        row = table[table["method"] == method].iloc[0]
        assert row["accuracy"] > 0.5 and row["trained_share"] == share and row["snr"] == 1.0, method
    whole = table[table["method"] == "hetacumn"].set_index(["dataset", "trained_share"])["accuracy"]
    assert whole["elsewhere", 0.7] == 0.9 and whole["adk", 0.7] != 0.123  # kept, as no run is here; replaced by a newer run
    assert list(whole.index) == [("adk", 0.7), ("elsewhere", 0.7), ("adk", 0.1)]
    figures = {path.name for path in (project / "benchmark_figures").iterdir()}
    assert figures == {"benchmark_ablations.png", "benchmark_share.png"}
    shutil.rmtree(done / "cryodrgn2")


def test_two_predictions_are_compared_on_their_common_particles(done, project):
    """A prediction agrees completely with a copy of itself that lacks some particles and has its classes renamed.

    A comparison of predictions without common particles is refused.
    """
    part = project / "results/part"
    shutil.copytree(done / "hetacumn", part)
    table, latents = star.read_table(part / "predictions.star"), pd.read_csv(part / "latents.csv")
    rows = np.arange(len(latents))[::-1][10:]
    renamed = table.particles.iloc[rows].assign(rlnClassNumber=3 - table.numbers("rlnClassNumber").astype(int)[rows])
    star.write_table(part / "predictions.star", renamed, table.optics)
    latents.iloc[rows].assign(**{"class": 3 - latents["class"].iloc[rows]}).to_csv(part / "latents.csv", index=False)
    one, other = (part / "volumes" / f"class_{k}.mrc" for k in (1, 2))
    one.rename(part / "kept"), other.rename(one), (part / "kept").rename(other)
    folders = ("first", "results/adk/hetacumn", "second", "results/part", "out", "results/compared")
    ran = run(project, "real/4_compare", *folders)
    assert ran.returncode == 0, ran.stderr[-3000:]
    agreement = json.loads((project / "results/compared/agreement.json").read_text())
    assert agreement["particles"] == len(rows) and agreement["classes"] == 1 and agreement["poses_deg"] < 0.1
    assert agreement["within_10_deg"] == 1 and agreement["volumes_A"] == pytest.approx(agreement["nyquist_A"])
    assert {path.name for path in (project / "results/compared").glob("*.png")} == {"volumes.png", "fsc.png"}

    other = renamed.assign(rlnImageName=[f"{i + 1:06d}@other.mrcs" for i in range(len(renamed))])
    star.write_table(part / "predictions.star", other, table.optics)
    latents.iloc[rows].assign(
        **{"class": other["rlnClassNumber"].astype(int).to_numpy(), "particle": other["rlnImageName"].to_numpy()}
    ).to_csv(part / "latents.csv", index=False)
    ran = run(project, "real/4_compare", *folders)
    assert ran.returncode == 2 and "shares no particle with results/adk/hetacumn" in ran.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("method", "em", "particles", "absent/particles.star", "out", "out"), "absent/particles.star"),
        (("dataset", "adk", "sed", 3, "out", "out"), "2_train.ipynb has no parameter sed; its parameters are dataset"),
        (("dataset", "adk", "method", "em", "classes", 500, "out", "out"), "500 classes for 84 particles"),
        (("dataset", "adk", "method", "best", "out", "out"), "best"),
    ],
    ids=["missing stack", "unknown parameter", "more classes than particles", "unknown method"],
)
def test_a_users_mistake_gives_one_line_and_exit_code_2(done, project, tmp_path, arguments, message):
    arguments = [str(tmp_path) if word == "out" and i % 2 else word for i, word in enumerate(arguments)]
    ran = run(project, "pipeline/2_train", *arguments)
    assert ran.returncode == 2, ran.stderr[-2000:]
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last and "Traceback" not in ran.stderr
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
