"""benchmark/gpu.py: the plan keeps its limit of time, rows are true, and a toy run on the CPU writes all tables."""

import signal
import sys
import time
from types import SimpleNamespace

import gpu
import gpu_cryodrgn
import numpy as np
import pandas as pd
import pytest
import simulated_parts
import torch
from cryobench_sets import BOX, PIXEL_A, read_set
from gpu_busy import BusyTable, Samples, gpu_id, gpu_work, only_joint_steps, only_pose_steps
from gpu_plan import Step, TimeLimit, run_plan
from torch.autograd import DeviceType

from hetacumn.common.errors import HetacumnError
from hetacumn.evaluation.dataset import SimulatedDataset
from hetacumn.network.config import TrainConfig
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import read_particles
from hetacumn.simulation.projection import density
from hetacumn.simulation.structures import load_states
from hetacumn.simulation.truth import Truth

CPU = torch.device("cpu")


@pytest.fixture
def table(tmp_path) -> BusyTable:
    return BusyTable(tmp_path / "busy.csv", CPU, Samples())


def record(ran: list[str], name: str, done=(), **more) -> Step:
    """Return a step that appends its name to ``ran``, and that is done if its name is in ``done``."""
    return Step("a", name, 1.0, lambda left: ran.append(name), lambda: name in done or name in ran, **more)


def test_a_plan_runs_its_steps_in_order_and_says_why_it_skips_one(table, capsys):
    ran: list[str] = []
    first = record(ran, "first")
    broken = Step("a", "broken", 1.0, lambda left: 1 / 0, lambda: False)
    steps = [
        first,
        record(ran, "done", done=["done"]),
        broken,
        record(ran, "orphan", needs=broken),
        record(ran, "late", needs=first),
        record(ran, "absent", refusal="its program is missing"),
        Step("b", "long", 1e6, lambda left: None, lambda: False),
    ]
    assert run_plan(steps, TimeLimit(60.0), table) == ["a: broken"] and ran == ["first", "late"]
    printed = capsys.readouterr()
    assert "a: done: skipped, because it is finished\n" in printed.out and "ZeroDivisionError" in printed.err
    assert "a: orphan: skipped, because 'a: broken' is not finished\n" in printed.out
    assert "a: absent: skipped, because its program is missing\n" in printed.out
    assert "b: long: skipped, because it takes at least 1000000 s, and 60 s of the plan are left\n" in printed.out
    rows = pd.read_csv(table.path)
    assert rows["phase"].tolist() == ["first", "broken", "late"] and rows["finished"].tolist() == [True, False, True]


def test_a_step_stops_at_the_limit_and_the_next_plan_continues_it(table, capsys):
    calls: list[float] = []

    def work(left: float) -> None:
        calls.append(left)
        if len(calls) == 1:
            time.sleep(30)

    step, began = Step("a", "slow", 0.1, work, lambda: len(calls) > 1, most_seconds=0.3), time.monotonic()
    assert run_plan([step], TimeLimit(60.0), table) == [] and time.monotonic() - began < 5
    assert "a: slow: stopped after 0 s; the next call goes on from here\n" in capsys.readouterr().out
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert run_plan([step, step], TimeLimit(60.0), table) == [] and len(calls) == 2
    assert pd.read_csv(table.path)["finished"].tolist() == [False, True]
    assert run_plan([record([], "a")], TimeLimit(0.0), table) == []


def test_ctrl_c_ends_a_plan(table):
    def press(left: float) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_plan([Step("a", "pressed", 0.0, press, lambda: False)], TimeLimit(60.0), table)


def test_the_busy_share_of_a_phase_is_the_mean_of_its_samples(table, monkeypatch):
    for line in ("50, 1000\n", "[N/A], 1000\n", "", "100, 2000\n"):
        table.samples.read_line(line)
    before = time.perf_counter()
    with table.phase("a", "x"):
        table.samples.read_line("20, 3000")
        table.samples.read_line("30, 1000")
    table.write("a", "step", {"step_ms": 4.0, "kernels_per_step": 7.0})
    x, step = pd.read_csv(table.path).to_dict("records")
    assert x["busy_share"] == pytest.approx(0.25) and x["gpu_memory_gb"] == pytest.approx(3000 * 2**20 / 1e9, rel=1e-5)
    assert table.samples.between(0, before)["busy_share"] == 0.75 and table.samples.between(-2, -1) == {}
    assert (step["step_ms"], step["kernels_per_step"]) == (4, 7) and np.isnan(step["busy_share"])
    table.write("a", "x", {"seconds": 9.0})
    assert pd.read_csv(table.path)["phase"].tolist() == ["step", "x"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    assert [gpu_id(torch.device(name)) for name in ("cuda", "cuda:0", "cuda:1")] == ["3", "3", "GPU-5a"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_id(torch.device("cuda:1")) == "1"


def test_the_work_of_a_step_is_the_sum_of_its_kernels_and_copies():
    def event(key: str, count: int, microseconds: float, kind=DeviceType.CUDA, is_user_annotation: bool = False):
        return SimpleNamespace(key=key, count=count, self_device_time_total=microseconds, device_type=kind,
                               is_user_annotation=is_user_annotation)  # fmt: skip

    events = [event("gemm", 30, 6000.0), event("Memcpy HtoD", 10, 2000.0), event("aten::mm", 30, 6000.0, DeviceType.CPU),
              event("Optimizer.step", 10, 9000.0, is_user_annotation=True)]  # fmt: skip
    assert gpu_work(events, 10, 4.0) == {"kernels_per_step": 3.0, "work_ms_per_step": 0.8, "busy_share": 0.2}


@pytest.mark.parametrize("brightness", ["bright", "faint"])
def test_only_the_wanted_steps_are_counted(brightness):
    config = TrainConfig.from_params({"ab_initio": {"brightness": brightness}})
    assert only_pose_steps(config, 300).pose_steps == 300 and only_pose_steps(config, 300).joint_epochs == 0
    joint = only_joint_steps(config, 60, 10_001)
    assert joint.pose_steps == 0 and round(joint.joint_epochs * -(-10_001 // config.batch)) == 60


STAND_IN = """#!{python}
import pickle, sys, time
from pathlib import Path
import numpy as np
words = sys.argv
out = Path(words[words.index("-o") + 1])
if words[1] == "parse_ctf_star":
    out.write_bytes(b"")
    sys.exit()
assert Path(words[2]).is_file() and "--zdim" in words and out.joinpath("ctf.pkl").exists()
rotations = np.load({rotations!r})
for epoch in range({epochs}):
    z, shifts = np.full((len(rotations), 8), epoch, np.float32), np.zeros((len(rotations), 2))
    for name, value in (("z", z), ("pose", (rotations, shifts))):
        (out / f"{{name}}.{{epoch}}.pkl").write_bytes(pickle.dumps(value))
    (out / f"weights.{{epoch}}.pkl").write_bytes(b"")
(out / "z.9.pkl").write_bytes(b"half of a file")
time.sleep(60)
"""


@pytest.mark.slow
def test_cryodrgn_ai_is_stopped_at_the_limit_and_its_last_complete_epoch_is_read(tmp_path, monkeypatch):
    gpu.simulated(gpu.Case("adk", particles_of_part=8), tmp_path, CPU)
    truth = Truth.read(tmp_path / "truth.npz")
    stack = prepare_stack(tmp_path / "particles.star", tmp_path / "prepared", Preprocessing(box=32), progress=False)
    np.save(tmp_path / "r.npy", truth.rotations.numpy())
    program = tmp_path / "bin/cryodrgn"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    def stand_in(epochs: int) -> None:
        program.write_text(STAND_IN.format(python=sys.executable, rotations=str(tmp_path / "r.npy"), epochs=epochs))
        program.chmod(0o755)

    stand_in(3)
    assert gpu_cryodrgn.find_cryodrgn() is not None
    limit = 20.0  # seconds; a busy machine needs several to start Python
    found, facts = gpu_cryodrgn.run_cryodrgn_ai(stack, tmp_path / "drgnai", 2, limit)
    assert facts["epochs"] == 3 and not facts["finished"] and 15 < facts["seconds"] < 58
    assert (found.latents == 2).all() and torch.allclose(found.rotations, truth.rotations, atol=1e-5)
    stand_in(0)
    with pytest.raises(HetacumnError, match=r"cryoDRGN-AI completed no epoch in \d+ s; expected more time"):
        gpu_cryodrgn.run_cryodrgn_ai(stack, tmp_path / "drgnai", 2, 3.0)
    program.write_text(f"#!{sys.executable}\nraise SystemExit('no such command')")
    with pytest.raises(HetacumnError, match="no such command"):
        gpu_cryodrgn.run_cryodrgn_ai(stack, tmp_path / "drgnai", 2, 3.0)


@pytest.mark.slow
def test_a_stack_simulated_in_parts_is_joined_and_keeps_its_truth(tmp_path):
    case = gpu.Case("adk", parts=2, particles_of_part=5)
    truth = gpu.simulated(case, tmp_path, CPU)
    truths = [Truth.read(tmp_path / f"part{part}/truth.npz") for part in range(2)]
    assert torch.equal(truth.rotations, torch.cat([truth.rotations for truth in truths]))
    assert torch.equal(truth.classes, torch.cat([truth.classes for truth in truths]))
    images = read_particles(tmp_path / "particles.star", progress=False).images
    parts = [read_particles(tmp_path / f"part{part}/particles.star", progress=False).images for part in range(2)]
    np.testing.assert_array_equal(images, torch.cat(parts))
    assert not torch.equal(*parts)
    before = (tmp_path / "part0/particles.mrcs").stat().st_mtime_ns
    again = gpu.simulated(case, tmp_path, CPU)
    assert torch.equal(again.rotations, truth.rotations)
    assert (tmp_path / "part0/particles.mrcs").stat().st_mtime_ns == before


def test_the_parts_of_a_turn_have_all_images_and_angles_and_one_origin():
    whole = read_set("igg-1d").simulation(100_003)
    parts = simulated_parts.split_turn(whole, 20)
    assert sum(part.particles for part in parts) == 100_003
    angles = [part.molecule["fab_deg"] for part in parts]
    assert {own[0] for own in angles} == {0.0} and all(part.weights[0] == 0 for part in parts)
    assert sorted(sum((own[1:] for own in angles), [])) == whole.molecule["fab_deg"]
    assert all(np.diff(own[1:]) == pytest.approx([72.0] * 4) for own in angles)


@pytest.mark.slow
def test_a_toy_run_on_the_cpu_writes_all_tables_and_is_not_repeated(tmp_path, capfd):
    words = ["--toy", "--out", str(tmp_path), "--minutes", "10"]
    assert gpu.main(words) == 0
    scores = pd.read_csv(tmp_path / "gpu_cryobench.csv").set_index("method")
    assert scores.index.tolist() == ["hetacumn", "hetacumn-refined"] and (scores["trained"] == 48).all()
    assert scores["auc_fsc"].between(0.01, 15 / BOX).all()
    tests = pd.read_csv(tmp_path / "gpu_tests.csv").iloc[0]
    assert (tests["failed"], tests["errors"]) == (0, 0)
    assert (tests["passed"] if torch.cuda.is_available() else tests["skipped"]) > 0
    busy = pd.read_csv(tmp_path / "gpu_busy.csv")
    assert busy["finished"].all() and busy["phase"].tolist()[:5] == [
        "pytest",
        "simulate",
        "prepare",
        "ab initio start",
        "training",
    ]
    steps = busy[busy["phase"].str.startswith("step,")]
    assert len(steps) == 2 and (steps["step_ms"] > 0).all() and steps["seconds"].isna().all()
    if not torch.cuda.is_available():
        assert busy[["busy_share", "gpu_memory_gb", "kernels_per_step", "work_ms_per_step"]].isna().all(axis=None)
    for name in ("gpu-igg-1d.png", "gpu_busy.png"):
        assert (tmp_path / name).stat().st_size > 0

    known = SimulatedDataset.read(tmp_path / "igg-1d", "igg-1d")
    assert known.truth.classes.bincount().sum() == 60 and known.truth.classes.unique().tolist() == [0, 1]
    turned = load_states({"structure": "igg", "fab_deg": [0, 180]}, gpu.project_root() / "data")[1]
    torch.testing.assert_close(known.volumes[1], density(turned, BOX, PIXEL_A), atol=2e-3, rtol=0.0)

    capfd.readouterr()
    assert gpu.main(words) == 0
    assert capfd.readouterr().out.count("skipped, because it is finished") == 10 == len(busy) - 2


def test_gpu_seconds_are_listed_with_the_cpu_seconds_of_the_same_dataset():
    ours = {"dataset": "adk", "device": "some GPU, with more", "start_seconds": 20, "train_seconds": 10}
    table = pd.DataFrame([ours | {"method": "em"}, ours | {"method": "hetacumn"},
                          ours | {"method": "hetacumn", "dataset": "other"}])  # fmt: skip
    cpu = pd.DataFrame([("adk", "em", 100), ("adk", "hetacumn", 160)],
                       columns=["dataset", "method", "train_seconds"])  # fmt: skip
    found = gpu.seconds_of(table, cpu).set_index(["dataset", "device"])
    assert found.loc[("adk", "some GPU")].tolist() == [20, 10]
    assert found.loc[("adk", "1 CPU core")].tolist() == [100, 60] and len(found) == 3


def test_the_rows_of_a_dataset_replace_its_earlier_rows_in_the_order_of_the_datasets(tmp_path, monkeypatch, table):
    monkeypatch.setattr(gpu, "run", lambda name, out, busy: iter([{"dataset": name, "method": "em", "accuracy": 0.5}]))
    path = tmp_path / "gpu.csv"
    for name in ("large", "adk"):
        pd.DataFrame([{"dataset": name, "method": m, "accuracy": 0.1} for m in ("em", "hetacumn")]).to_csv(
            path, mode="a", index=False, header=not path.exists()
        )
    gpu.measure("ribosome", tmp_path / "ribosome", path, table)
    gpu.measure("large", tmp_path / "large", path, table)
    rows = pd.read_csv(path)
    assert rows["dataset"].tolist() == ["adk", "adk", "ribosome", "large"]
    assert rows["accuracy"].tolist() == [0.1, 0.1, 0.5, 0.5]
    assert not gpu.has_all_rows(tmp_path / "large/rows.csv") and not gpu.has_all_rows(tmp_path / "adk/rows.csv")
