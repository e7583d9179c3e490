"""Reference maps: resampling, scale, the start from a reference, and the warning of a wrong reference."""

import warnings

import mrcfile
import numpy as np
import pytest
import torch
from conftest import Blobs
from test_ab_initio import QUICK
from toys import hinged, make_toy
from tqdm import tqdm

from hetacumn.ab_initio.guided import ReferenceRun
from hetacumn.ab_initio.start import Steps
from hetacumn.common.errors import HetacumnError
from hetacumn.io.mrc import write_mrc
from hetacumn.physics.fourier import pad_volumes
from hetacumn.physics.fsc import fsc
from hetacumn.physics.volumes import low_passed
from hetacumn.search.initial import InitialSettings
from hetacumn.search.reference import Reference, explained_share, offset_px, prepare_reference, read_map, resampled

BOX, RADIUS = 24, 4.0


@pytest.fixture(scope="module")
def toy(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 110)], 400, BOX, snr=1.0)


@pytest.mark.parametrize("size, padded", [(48, 48), (48, 80), (36, 40), (96, 96)])
def test_a_map_of_any_box_and_voxel_size_gives_the_same_volume_at_the_training_box(blobs, tmp_path, size, padded):
    write_mrc(tmp_path / "map.mrc", pad_volumes(blobs.volume(size), padded), voxel_A=5.0 * BOX / size)
    found, expected = read_map(tmp_path / "map.mrc", BOX, 5.0), blobs.volume(BOX)
    assert (found - expected).norm() < 0.06 * expected.norm()


def test_a_map_smaller_than_the_box_is_zero_outside(blobs):
    found = resampled(blobs.volume(24)[6:18, 6:18, 6:18], 5.0, BOX, 5.0)
    assert found[0].abs().max() == 0 and (found[8:16, 8:16, 8:16] - blobs.volume(24)[8:16, 8:16, 8:16]).abs().max() < 1e-5


def test_the_scale_and_the_background_of_a_reference_do_not_matter(toy):
    volume = toy.volumes.mean(0)
    one, other = prepare_reference(volume, RADIUS, toy.data), prepare_reference(70 * volume + 5, RADIUS, toy.data)
    assert (one - other).norm() < 0.01 * one.norm()
    assert 0.8 < float(one.norm() / low_passed(volume, RADIUS).norm()) < 1.25  # the scale of the images


def test_a_reference_far_off_centre_is_centred(toy, blobs):
    off = prepare_reference(blobs.moved(shift=(0.12, 0.0, 0.0)).volume(BOX), RADIUS, toy.data)
    assert offset_px(off) < 0.5


def test_a_low_passed_volume_keeps_low_and_loses_high_frequencies(blobs):
    volume = blobs.volume(BOX)
    once, white = low_passed(volume, RADIUS), torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(0))
    assert fsc(once, volume)[:3].min() > 0.999
    assert low_passed(white, RADIUS).square().mean() < 0.06 * white.square().mean()


def begin(toy, reference) -> tuple[torch.Tensor, list[str]]:
    """Return the consensus volume of a start from a reference, and the warnings."""
    with warnings.catch_warnings(record=True) as caught, tqdm(disable=True, total=1000) as progress:
        warnings.simplefilter("always")
        generator, config = torch.Generator().manual_seed(0), QUICK.adapted_to(toy.data)
        known = Reference(reference, RADIUS, "map.mrc")
        run = ReferenceRun(toy.data, config, generator, progress, Steps(print, {}), reference=known)
        volume = run._consensus()["volume"]
    return volume, [str(one.message) for one in caught]


def test_a_start_from_one_state_stays_in_its_frame_without_a_warning(toy):
    volume, said = begin(toy, 3 * toy.volumes[0] + 1)
    assert not said
    assert fsc(volume, toy.volumes.mean(0))[1:4].min() > 0.8  # in the frame of the reference, without alignment


def test_a_wrong_reference_is_said_in_one_line_and_left(toy):
    other = Blobs(8, width=0.09).moved(shift=(0.1, 0.1, 0.0)).volume(BOX)
    volume, said = begin(toy, other)
    assert len(said) == 1 and said[0].startswith("map.mrc: explains") and "the start continues without the reference" in said[0]
    grid = QUICK.poses(BOX, torch.device("cpu"))
    truth = toy.volumes.mean(0)
    assert (
        explained_share(toy.data[:100], volume, truth, RADIUS, grid) > 0.9
    )  # the start finds the volume in spite of the wrong reference


def test_unusable_references_are_refused_in_one_line(tmp_path):
    with pytest.raises(
        HetacumnError, match=r"absent.mrc: cannot be read \(No such file or directory\); expected an MRC volume"
    ):
        InitialSettings(reference=str(tmp_path / "absent.mrc")).check_files("table.star")
    with mrcfile.new(tmp_path / "flat.mrc") as mrc:
        mrc.set_data(np.zeros((4, 8, 8), np.float32))
        mrc.voxel_size = 2.0
    with pytest.raises(HetacumnError, match=r"flat.mrc: \(4, 8, 8\) voxels; expected a cube"):
        InitialSettings(reference=str(tmp_path / "flat.mrc")).check_files("table.star")
    with mrcfile.new(tmp_path / "unsized.mrc") as mrc:
        mrc.set_data(np.zeros((8, 8, 8), np.float32))
    with pytest.raises(HetacumnError, match="unsized.mrc: voxel size 0 Å; expected a voxel size above 0 in the header"):
        InitialSettings(reference=str(tmp_path / "unsized.mrc")).check_files("table.star")
    volume = torch.zeros(8, 8, 8)
    volume[0, 0, :2] = torch.tensor([torch.nan, torch.inf])
    write_mrc(tmp_path / "nan.mrc", volume, 2.0)
    with pytest.raises(HetacumnError, match="nan.mrc: 2 voxels are NaN or infinite; expected finite densities"):
        InitialSettings(reference=str(tmp_path / "nan.mrc")).check_files("table.star")
    with pytest.raises(HetacumnError, match="expected none, because poses 'given' exclude a pose search"):
        InitialSettings("given", "map.mrc")
    with pytest.raises(HetacumnError, match="lowpass_A is -3.0; expected a resolution above 0 Å"):
        InitialSettings(lowpass_A=-3.0)
