"""Masks: the volume of a sphere, distances of extension and edge, positions of files, and refusal of empty regions."""

import mrcfile
import numpy as np
import pytest
import torch

from hetacumn.cli.main import main
from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import read_mrc, read_origin_A, write_mrc
from hetacumn.physics.volumes import radius_grid
from hetacumn.reconstruction.masks import MaskSettings, mask_of_map, write_mask

BOX, VOXEL_A = 48, 2.0


@pytest.fixture
def two_balls(tmp_path):
    """Write a map of two balls of radius 8 Å, at x = ±20 Å."""
    distance = radius_grid(BOX) * VOXEL_A
    volume = sum((distance.roll(shift, -1) <= 8).float() for shift in (-10, 10))
    write_mrc(tmp_path / "map.mrc", volume, VOXEL_A)
    return tmp_path / "map.mrc"


def test_the_volume_of_a_sphere_is_known(two_balls):
    mask, voxel_A, _ = mask_of_map(two_balls, MaskSettings(sphere=(5.0, -3.0, 2.0, 25.0), edge_A=0.0))
    assert voxel_A == VOXEL_A and set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(mask.sum()) * VOXEL_A**3 == pytest.approx(4 / 3 * np.pi * 25**3, rel=0.01)
    axis = (torch.arange(BOX) - BOX // 2) * VOXEL_A
    for dim, expected in ((2, 5.0), (1, -3.0), (0, 2.0)):  # the array is (z, y, x)
        others = tuple({0, 1, 2} - {dim})
        assert float((mask.sum(others) * axis).sum() / mask.sum()) == pytest.approx(expected, abs=0.1)


def test_a_mask_is_1_up_to_the_extension_and_0_beyond_the_edge(two_balls):
    mask, _, _ = mask_of_map(two_balls, MaskSettings(sphere=(0.0, 0.0, 0.0, 10.0), extension_A=8.0, edge_A=12.0))
    distance = radius_grid(BOX) * VOXEL_A
    assert (mask[distance <= 17] == 1).all() and (mask[distance >= 32] == 0).all()
    middle = mask[(distance > 23) & (distance < 25)]
    assert 0.2 < float(middle.min()) and float(middle.max()) < 0.8


def test_a_threshold_with_a_sphere_selects_one_part(two_balls):
    both, _, _ = mask_of_map(two_balls, MaskSettings(threshold=0.5, edge_A=0.0))
    one, _, _ = mask_of_map(two_balls, MaskSettings(0.5, (20.0, 0.0, 0.0, 15.0), edge_A=0.0))
    assert float(one.sum()) == pytest.approx(float(both.sum()) / 2)
    assert (one[..., : BOX // 2] == 0).all()


@pytest.mark.parametrize("header", ["origin", "start"])
def test_the_sphere_is_in_the_coordinates_of_the_file_and_the_mask_keeps_them(tmp_path, header):
    with mrcfile.new(tmp_path / "map.mrc") as mrc:
        mrc.set_data(np.ones((BOX, BOX, BOX), np.float32))
        mrc.voxel_size = VOXEL_A
        if header == "origin":
            mrc.header.origin = (100.0, 0.0, -50.0)
        else:
            mrc.header.nxstart, mrc.header.nzstart = 50, -25
    write_mask(tmp_path / "map.mrc", MaskSettings(sphere=(140.0, 30.0, -10.0, 10.0), edge_A=0.0), tmp_path / "mask.mrc")
    mask, _ = read_mrc(tmp_path / "mask.mrc")
    z, y, x = (mask.nonzero().float().mean(0) * VOXEL_A).tolist()
    assert (x, y, z) == pytest.approx((40, 30, 40), abs=0.01)
    assert read_origin_A(tmp_path / "mask.mrc") == (100.0, 0.0, -50.0)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"threshold": 2.0}, "map.mrc: no voxel above 2; expected a threshold below the largest density, 1"),
        (
            {"sphere": (500.0, 0.0, 0.0, 9.0)},
            "map.mrc: no voxel of the region in the sphere 500 0 0 9; .* from -48 -48 -48 to 46 46",
        ),
        ({}, "neither threshold nor sphere is given"),
        ({"threshold": 0.5, "edge_A": -1.0}, "edge_A is -1.0; expected a width of at least 0 Å"),
        ({"sphere": (0.0, 0.0, 0.0, 0.0)}, "expected x, y, z and a radius above 0 Å"),
    ],
)
def test_regions_without_voxels_are_refused(two_balls, settings, message):
    with pytest.raises(HetacumnError, match=message):
        mask_of_map(two_balls, MaskSettings(**settings))


def test_the_command_writes_a_mask_and_never_over_the_map(two_balls, tmp_path, capsys):
    out = tmp_path / "new/mask.mrc"
    assert main(["mask", str(two_balls), "--sphere", "-20", "0", "0", "15", "--soft", "6", "--out", str(out)]) == 0
    assert "next: hetacumn train PARTICLES --poses fixed --mask" in capsys.readouterr().out
    assert float(read_mrc(out)[0][..., BOX // 2 + 4 :].max()) == 0
    assert main(["mask", str(two_balls), "--threshold", "0.5", "--out", str(two_balls)]) == 2
    assert "is the map; expected another file" in capsys.readouterr().err
