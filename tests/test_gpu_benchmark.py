"""benchmark/gpu.py: a stack simulated in parts keeps the truth of every image, and its table has GPU and CPU seconds."""

import gpu
import numpy as np
import pandas as pd
import pytest
import torch

from hetacumn.particles.reader import read_particles
from hetacumn.simulation.truth import Truth


@pytest.mark.slow
def test_a_stack_simulated_in_parts_is_joined_and_keeps_its_truth(tmp_path):
    case = gpu.Case("adk", parts=2, particles_of_part=5)
    rotations, classes = gpu.simulated(case, tmp_path, torch.device("cpu"))
    truths = [Truth.read(tmp_path / f"part{part}/truth.npz") for part in range(2)]
    assert torch.equal(rotations, torch.cat([truth.rotations for truth in truths]))
    assert torch.equal(classes, torch.cat([truth.classes for truth in truths]))
    images = read_particles(tmp_path / "particles.star", progress=False).images
    parts = [read_particles(tmp_path / f"part{part}/particles.star", progress=False).images for part in range(2)]
    np.testing.assert_array_equal(images, torch.cat(parts))
    assert not torch.equal(*parts)
    before = (tmp_path / "part0/particles.mrcs").stat().st_mtime_ns
    again, _ = gpu.simulated(case, tmp_path, torch.device("cpu"))
    assert torch.equal(again, rotations) and (tmp_path / "part0/particles.mrcs").stat().st_mtime_ns == before


def test_gpu_seconds_are_listed_with_the_cpu_seconds_of_the_same_dataset():
    ours = {"dataset": "adk", "device": "some GPU, with more", "start_seconds": 20, "train_seconds": 10}
    table = pd.DataFrame([ours | {"method": "em"}, ours | {"method": "hetacumn"},
                          ours | {"method": "hetacumn", "dataset": "other"}])  # fmt: skip
    cpu = pd.DataFrame([("adk", "em", 100), ("adk", "hetacumn", 160)],
                       columns=["dataset", "method", "train_seconds"])  # fmt: skip
    found = gpu.seconds_of(table, cpu).set_index(["dataset", "device"])
    assert found.loc[("adk", "some GPU")].tolist() == [20, 10]
    assert found.loc[("adk", "1 CPU core")].tolist() == [100, 60] and len(found) == 3
