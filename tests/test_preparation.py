"""Prepared stacks: equal to direct reading, prepared only once, with a list of the dropped particles."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from test_particles import blob_images, optics, write_stack

from hetacumn.common.errors import HetacumnError
from hetacumn.io.stacks import new_stack
from hetacumn.io.star import read_table, write_table
from hetacumn.particles import preparation
from hetacumn.particles.metadata import ParticleMetadata, Poses, write_star
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import is_made_from, reopen
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import ParticleReader, read_particles
from hetacumn.physics.rotations import random_rotations

SETTINGS = Preprocessing(box=16, contrast="white", centre=False)
N = 30


@pytest.fixture
def source(tmp_path):
    write_stack(tmp_path / "stack.mrcs", blob_images(N))
    poses = Poses(random_rotations(N, torch.Generator().manual_seed(0)), torch.linspace(-3, 3, 2 * N).view(N, 2))
    write_star(tmp_path / "particles.star", ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(N)], optics(N), poses), 32)
    return tmp_path / "particles.star"


def test_a_prepared_stack_equals_direct_reading(source, tmp_path):
    whole = read_particles(source, box=16, contrast="white", centre=False, progress=False)
    stack = prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    assert len(stack) == N and stack.box == 16 and stack.pixel_A == whole.pixel_A and stack.dropped == 0
    rows = np.array([4, 7, 20])
    for found, expected in ((stack.read(), whole), (stack.read(rows), whole[rows]), (stack.read(slice(5, 9)), whole[5:9])):
        assert torch.equal(found.images, expected.images) and found.metadata.names == expected.metadata.names
        assert torch.equal(found.metadata.poses.shifts_px, expected.metadata.poses.shifts_px)
        assert torch.equal(found.metadata.optics.defocus_u_A, expected.metadata.optics.defocus_u_A)


def test_a_prepared_stack_can_be_read_as_an_ordinary_star_file(source, tmp_path):
    stack = prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    again = read_particles(stack.star, contrast="white", centre=False, progress=False)
    assert again.pixel_A == pytest.approx(3.0) and again.box == 16
    torch.testing.assert_close(again.metadata.poses.shifts_px, stack.metadata.poses.shifts_px, atol=1e-5, rtol=0)
    ours = stack.read().images
    cosine = torch.nn.functional.cosine_similarity(again.images.flatten(1), ours.flatten(1))
    assert cosine.min() > 0.97  # reading normalises the images once more


def test_a_stack_is_prepared_once_and_again_after_a_change(source, tmp_path, monkeypatch):
    made, reader = [], ParticleReader
    monkeypatch.setattr(preparation, "ParticleReader", lambda *a: made.append(a[2]) or reader(*a))
    folder = tmp_path / "prepared"
    first = prepare_stack(source, folder, SETTINGS, progress=False)
    assert torch.equal(prepare_stack(source, folder, SETTINGS, progress=False).read().images, first.read().images)
    assert len(made) == 1
    prepare_stack(source, folder, Preprocessing(box=8, contrast="white", centre=False), progress=False)
    assert [settings.box for settings in made] == [16, 8]
    write_stack(tmp_path / "stack.mrcs", 2 + blob_images(N)[::-1])
    os.utime(tmp_path / "stack.mrcs", (0, 0))
    changed = prepare_stack(source, folder, Preprocessing(box=8, contrast="white", centre=False), progress=False)
    assert len(made) == 3
    torch.testing.assert_close(
        changed.read().images[0], prepare_stack(source, folder, made[1], progress=False).read().images[0]
    )


def test_bad_particles_are_dropped_and_listed(source, tmp_path):
    images = blob_images(N)
    images[3], images[7, 4, 5], images[11] = 2.0, np.nan, 1e4 * images[11]
    images[20, 0, 0] = 1e6  # a particle with an outlier pixel is kept
    circle = (np.arange(32) - 16) ** 2
    images[25, circle[:, None] + circle > 15**2] = 1.0
    write_stack(tmp_path / "stack.mrcs", images)
    with pytest.warns(UserWarning, match="4 of 30 particles are dropped, see .*dropped.csv; the first image is constant"):
        stack = prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    listed = pd.read_csv(tmp_path / "prepared/dropped.csv")
    assert listed["row"].tolist() == [4, 8, 12, 26] and listed["particle"].iloc[1] == "8@stack.mrcs"
    reasons = ["is constant", "holds NaN or infinity", "has noise of", "is constant outside the particle's circle"]
    assert all(found.startswith(reason) for found, reason in zip(listed["reason"], reasons, strict=True))
    good = [i for i in range(N) if i not in (3, 7, 11, 25)]
    assert stack.rows.tolist() == good and stack.dropped == 4 and stack.outliers == 1
    again = prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    assert again.metadata.names == [f"{i + 1}@stack.mrcs" for i in good] and len(again.images) == 26
    write_stack(tmp_path / "stack.mrcs", blob_images(N))
    clean = read_particles(source, box=16, contrast="white", centre=False, progress=False)
    same = [k for k, i in enumerate(good) if i != 20]
    assert torch.equal(again.read().images[same], clean.images[[good[k] for k in same]])


def test_images_other_than_prepared_json_describes_are_refused_and_prepared_again(source, tmp_path):
    folder = tmp_path / "prepared"
    stack = prepare_stack(source, folder, SETTINGS, progress=False)
    before = stack.stack.read_bytes()
    for images, pixel_A in ((blob_images(N)[1:, ::2, ::2], 2.0), (blob_images(N)[:, ::4, ::4], 2.0), (stack.images, 7.0)):
        with new_stack(stack.stack, len(images), images.shape[-1], pixel_A) as other:
            other[:] = images
        with pytest.raises(HetacumnError, match="particles.mrcs: not the images that .*prepared.json describes"):
            reopen(folder)
        assert prepare_stack(source, folder, SETTINGS, progress=False).stack.read_bytes() == before
    assert reopen(folder).metadata.names == stack.metadata.names


def test_a_stack_without_usable_images_is_refused_and_leaves_no_file(source, tmp_path):
    write_stack(tmp_path / "stack.mrcs", np.ones((N, 32, 32), np.float32))
    with pytest.raises(HetacumnError, match="none of 30 sampled images is usable: the first image is constant"):
        prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    assert not list((tmp_path).glob("prepared/*"))


def test_an_interrupted_preparation_leaves_no_file(source, tmp_path, monkeypatch):
    def broken(self):
        yield from []
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ParticleReader, "batches", broken)
        prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    assert not list((tmp_path / "prepared").glob("*"))
    assert len(prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)) == N


def test_prepared_json_records_the_settings_of_the_preparation(source, tmp_path):
    prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    note = json.loads((tmp_path / "prepared/prepared.json").read_text())
    assert note["protein_in_file"] == "white" and note["particles"] == N and note["made_from"]["settings"]["box"] == 16


def test_images_are_centred_by_their_origins_and_shifts_are_converted_to_the_source_and_back(tmp_path):
    box, off_px = 32, torch.tensor([[3.2, -4.1], [0.0, 5.0], [-2.0, 0.3]])
    axis = torch.arange(box) - box // 2.0
    noise = 0.05 * torch.randn(3, box, box, generator=torch.Generator().manual_seed(0))
    blobs = [torch.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * 2.0**2)) for x, y in off_px]
    write_stack(tmp_path / "stack.mrcs", (torch.stack(blobs) + noise).numpy())
    poses = Poses(torch.eye(3).expand(3, 3, 3), off_px)
    write_star(tmp_path / "particles.star", ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(3)], optics(3), poses), box)
    stack = prepare_stack(tmp_path / "particles.star", tmp_path / "prepared", Preprocessing(contrast="white"), progress=False)
    peaks = stack.read().images.flatten(1).argmax(1)
    assert ((peaks % box - 16).abs() <= 1).all() and ((peaks // box - 16).abs() <= 1).all()
    torch.testing.assert_close(stack.metadata.offsets_A, off_px.round() * 1.5)
    left_px = stack.metadata.poses.shifts_px  # the fractions of a pixel that remain
    torch.testing.assert_close(left_px, off_px - off_px.round(), atol=1e-5, rtol=0)
    torch.testing.assert_close(stack.metadata.shifts_in_source_A(left_px * 1.5), off_px * 1.5, atol=1e-5, rtol=0)
    torch.testing.assert_close(stack.metadata.shifts_in_prepared_A(off_px * 1.5), left_px * 1.5, atol=1e-5, rtol=0)
    assert torch.equal(stack.read(np.array([2, 0])).metadata.offsets_A, stack.metadata.offsets_A[[2, 0]])


def test_another_table_in_the_same_folder_is_prepared_again(source, tmp_path):
    few = tmp_path / "few.star"
    write_star(few, ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(9, 3, -1)], optics(6)), 32)
    prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    assert is_made_from(tmp_path / "prepared", source) and not is_made_from(tmp_path / "prepared", few)
    other = prepare_stack(few, tmp_path / "prepared", SETTINGS, progress=False)
    assert other.metadata.names[0] == "10@stack.mrcs" and other.images.shape == (6, 16, 16) and len(other) == 6
    assert is_made_from(tmp_path / "prepared", few) and not is_made_from(tmp_path / "nowhere", few)
    write_star(few, ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(7)], optics(7)), 32)
    with pytest.raises(HetacumnError, match="few.star: 7 particles; expected 6, the particles in .*prepared; prepare"):
        reopen(tmp_path / "prepared")


def test_a_changed_table_is_not_used_with_the_earlier_images(source, tmp_path):
    prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    os.utime(source)  # touched, not changed
    assert len(reopen(tmp_path / "prepared")) == N
    table = read_table(source)
    write_table(source, table.particles.assign(rlnDefocusU=19_000.0), table.optics)
    with pytest.raises(
        HetacumnError, match="particles.star: changed since .*prepared was made from it; prepare the table again"
    ):
        reopen(tmp_path / "prepared")


def test_preparation_never_overwrites_its_source(source, tmp_path):
    """The source table and stack may have the same file names as the prepared ones."""
    write_stack(tmp_path / "particles.mrcs", blob_images(N))
    write_star(tmp_path / "other.star", ParticleMetadata([f"{i + 1}@particles.mrcs" for i in range(N)], optics(N)), 32)
    prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    again = tmp_path / "prepared/particles.star"
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for given, folder in ((source, tmp_path), (tmp_path / "other.star", tmp_path), (again, tmp_path / "prepared")):
        with pytest.raises(HetacumnError, match="preparation would overwrite the source images"):
            prepare_stack(given, folder, SETTINGS, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_the_folder_of_the_source_stacks_is_recorded(source, tmp_path):
    prepare_stack(source, tmp_path / "prepared", SETTINGS, tmp_path, progress=False)
    assert reopen(tmp_path / "prepared").data_dir == str(tmp_path)


def test_an_image_in_two_rows_is_refused_before_anything_is_read(tmp_path):
    write_stack(tmp_path / "stack.mrcs", blob_images(N))
    write_star(tmp_path / "twice.star", ParticleMetadata(["1@stack.mrcs", "2@stack.mrcs", "1@stack.mrcs"], optics(3)), 32)
    with pytest.raises(HetacumnError, match="twice.star: row 3: 1@stack.mrcs is named twice; expected every image once"):
        prepare_stack(tmp_path / "twice.star", tmp_path / "prepared", SETTINGS, progress=False)
    assert not (tmp_path / "prepared").exists()


def test_a_warning_reports_ignored_magnification_matrices(source, tmp_path, recwarn):
    table = read_table(source)
    matrix = {"rlnMagMat00": 1.0002, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 0.9999}
    write_table(source, table.particles, table.optics.assign(**matrix))
    prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
    assert not [w for w in recwarn if "magnification" in str(w.message)]
    write_table(source, table.particles, table.optics.assign(**matrix | {"rlnMagMat01": -0.02}))
    with pytest.warns(UserWarning, match="rlnMagMat01 deviates from 0 by up to 0.02; exhaustive pose search and the"):
        prepare_stack(source, tmp_path / "prepared", SETTINGS, progress=False)
