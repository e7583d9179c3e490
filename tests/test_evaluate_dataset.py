"""Scores and bounds of one dataset: choice of dataset, methods and particles, and units of the volumes."""

from pathlib import Path

import pytest
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.common.files import write_json
from hetacumn.evaluation import dataset
from hetacumn.evaluation.bound import Bound
from hetacumn.evaluation.dataset import SimulatedDataset, bound_dataset, dampen, find_methods, scale_to_images
from hetacumn.physics.fourier import crop_volumes
from hetacumn.simulation.truth import Truth


@pytest.mark.parametrize("first, expected", [(1.0, [1500]), (0.99, [1500, 10_000])])
def test_the_bound_uses_more_particles_only_if_its_accuracy_on_the_first_ones_is_below_1(monkeypatch, first, expected):
    counts = []

    def bound_rows(dataset, box, rows):
        counts.append(len(rows))
        return Bound(1.0, first, 1.0, (first,), (1.0,))

    monkeypatch.setattr(dataset, "_bound_rows", bound_rows)
    n = 20_000
    classes = torch.zeros(n, dtype=torch.long)
    truth = Truth(
        torch.zeros(n, 3, 3),
        torch.zeros(n, 2),
        classes,
        torch.zeros(n),
        torch.zeros(n).long(),
        torch.zeros(0, 64, 64),
        1.0,
        1.0,
    )
    bound_dataset(SimulatedDataset("adk", Path("adk"), truth, torch.zeros(2, 64, 64, 64), 1.0), 32)
    assert counts == expected


def test_the_bound_leaves_out_junk_and_dropped_images(tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/dropped.csv").write_text("row,particle,reason\n1,000001@particles.mrcs,is constant\n")
    n = 4
    truth = Truth(torch.zeros(n, 3, 3), torch.zeros(n, 2), torch.zeros(n).long(), torch.zeros(n), torch.tensor([0, 2, 0, 0]),
                  torch.zeros(0, 8, 8), 1.0, 1.0)  # fmt: skip
    known = SimulatedDataset("adk", tmp_path, truth, torch.zeros(1, 8, 8, 8), 1.0)
    assert known.usable_rows.tolist() == [2, 3]


def test_scaled_volumes_keep_the_signal_to_noise_ratio_of_projections(generator):
    """In half the box, pixels have four times the area."""
    volumes = crop_volumes(torch.randn(2, 32, 32, 32, generator=generator, device=generator.device), 16)
    fine = scale_to_images(volumes, 16, 1.0)
    torch.testing.assert_close(fine, volumes)
    coarse = scale_to_images(volumes, 8, 0.5)
    torch.testing.assert_close(coarse, crop_volumes(volumes, 8) * 4 / 0.5)


def test_the_envelope_widens_a_gaussian():
    axis, voxel_A = (torch.arange(32) - 16.0).square(), 2.0
    square = (axis[:, None, None] + axis[:, None] + axis) * voxel_A**2

    def gaussian(variance_A2: float) -> torch.Tensor:
        return torch.exp(-square / (2 * variance_A2)) / variance_A2**1.5

    wider = dampen(gaussian(36.0)[None], voxel_A, 200.0)[0]
    torch.testing.assert_close(wider, gaussian(36.0 + 200.0 / (8 * torch.pi**2)), atol=1e-5, rtol=1e-3)


def test_the_folder_of_another_dataset_is_refused(tmp_path):
    write_json(tmp_path / "particles/config.json", {"dataset": "ribosome"})
    with pytest.raises(HetacumnError, match="config.json: dataset is ribosome; expected adk"):
        SimulatedDataset.read(tmp_path, "adk")


def test_a_folder_without_predictions_is_refused(tmp_path):
    with pytest.raises(HetacumnError, match="no predictions; expected"):
        find_methods(tmp_path)
    (tmp_path / "em").mkdir()
    (tmp_path / "em/predictions.star").write_text("")
    assert find_methods(tmp_path) == {"em"}
