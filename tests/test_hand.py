"""The mirror image of a result: its projections at the new poses equal the old projections at the old poses."""

import shutil

import pytest
import torch
from test_explore import (
    DATA,
    folder,  # noqa: F401 (a fixture)
)

from hetacumn.cli.main import main
from hetacumn.common.errors import HetacumnError
from hetacumn.common.run_files import read_run
from hetacumn.io.mrc import read_mrc
from hetacumn.physics.rotations import MIRROR
from hetacumn.physics.slices import Slicer
from hetacumn.physics.volumes import mirror, rotate
from hetacumn.prediction.answer import Answer
from hetacumn.reconstruction.maps import Reconstruction
from hetacumn.run.hand import flip_hand

needs_data = pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")


def test_two_mirrors_are_the_identity_and_one_is_the_inversion_of_all_coordinates(blobs):
    volume = blobs.volume(32)
    assert mirror(mirror(volume)).equal(volume)
    torch.testing.assert_close(mirror(volume), blobs.moved(mirrored=True).volume(32), rtol=0, atol=1e-4)
    torch.testing.assert_close(mirror(volume), rotate(volume, torch.eye(3), mirrored=True), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def flipped(folder, tmp_path_factory):  # noqa: F811
    """Return a result with maps of its classes and along a path, and its mirror image."""
    out = tmp_path_factory.mktemp("flipped")
    shutil.copytree(folder, out / "run")
    answer = Answer.open(out / "run", folder / "prepared")
    answer.maps(refine=False, progress=False)
    with pytest.warns(UserWarning, match="maps along a motion need at least"):
        answer.path_maps(answer.density_path(answer.ends(1), 2), out / "run/motion_1", progress=False)
    return answer, flip_hand(answer, out / "other")


@needs_data
def test_projections_at_the_flipped_poses_equal_the_projections_at_the_old_poses(flipped):
    one, other = flipped
    k = torch.cartesian_prod(torch.arange(-6.0, 7), torch.arange(0.0, 7))
    for field in ("class_volumes", "basis"):
        old, new = (Slicer(getattr(run, field))(run.predictions.rotations[:40], k) for run in (one, other))
        torch.testing.assert_close(new, old, rtol=0, atol=0.005 * float(old.abs().max()))
        wrong = Slicer(getattr(one, field))(other.predictions.rotations[:40], k)
        assert (wrong - old).abs().max() > 0.1 * old.abs().max()
    assert other.predictions.latents.equal(one.predictions.latents) and other.predictions.shifts_A.equal(
        one.predictions.shifts_A
    )
    assert other.predictions.names == one.predictions.names and other.predictions.classes.equal(one.predictions.classes)


@needs_data
def test_a_reconstruction_from_the_images_has_the_flipped_hand(flipped):
    old, new = (run.reconstruct() for run in flipped)
    torch.testing.assert_close(new, mirror(old), rtol=0, atol=0.02 * float(old.max()))


@needs_data
def test_maps_and_their_poses_are_flipped_with_the_result(flipped):
    one, other = flipped
    assert other.refined_predictions() is not other.predictions  # the maps belong to the flipped predictions
    old, new = (Reconstruction.open(run.folder / "maps") for run in flipped)
    assert new.maps["class_1"].equal(mirror(old.maps["class_1"])) and new.masks["class_2"].equal(mirror(old.masks["class_2"]))
    torch.testing.assert_close(new.predictions.rotations, MIRROR @ old.predictions.rotations, rtol=0, atol=1e-5)
    assert new.curves.equals(old.curves) and new.predictions.half_sets.equal(old.predictions.half_sets)
    path = "motion_1/volumes/point_02.mrc"
    assert read_mrc(other.folder / path)[0].equal(mirror(read_mrc(one.folder / path)[0]))
    assert (other.folder / "motion_1/morph.cxc").read_text() == (one.folder / "motion_1/morph.cxc").read_text()


@needs_data
def test_a_flipped_result_flipped_again_is_the_first_result(flipped, tmp_path):
    one, other = flipped
    again = flip_hand(other, tmp_path / "again")
    torch.testing.assert_close(again.predictions.rotations, one.predictions.rotations, rtol=0, atol=1e-5)
    assert again.class_volumes.equal(one.class_volumes) and again.basis.equal(one.basis)
    assert "model" not in read_run(other.folder) and read_run(other.folder)["flipped_from"] == str(one.folder)


@needs_data
def test_the_command_refuses_a_folder_with_files(flipped, tmp_path, capfd):
    one, other = flipped
    with pytest.raises(HetacumnError, match="not empty; expected a new folder"):
        flip_hand(one, other.folder)
    assert main(["flip-hand", str(one.folder), "--out", str(tmp_path / "new"), "--prepared", str(one.stack.folder)]) == 0
    assert f"results: {tmp_path / 'new'}" in capfd.readouterr().out
    assert Answer.open(tmp_path / "new", one.stack.folder).class_volumes.equal(other.class_volumes)
