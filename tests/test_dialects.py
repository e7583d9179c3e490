"""Particle files as other programs write them: RELION 3.0 to 5, cryoSPARC, and the variants of MRC stacks."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_particles import blob_images, optics, write_stack

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.io.stack_reader import find_stack
from hetacumn.io.stacks import HEADER_BYTES, open_stack
from hetacumn.io.star_text import write_blocks
from hetacumn.particles.metadata import ParticleMetadata, optics_of, poses_of, write_star
from hetacumn.particles.predictions import Predictions
from hetacumn.particles.preparation import prepare_stack
from hetacumn.particles.prepared_stack import reopen
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.reader import read_particles
from hetacumn.particles.source_images import SourceImages
from hetacumn.physics.optics import frequency_grid
from hetacumn.physics.rotations import random_rotations

N, PIXEL_A = 8, 1.5
SETTINGS = Preprocessing(box=16, contrast="white")
RELION30 = {"rlnVoltage": "300", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.1"}


@pytest.fixture
def folder(tmp_path):
    write_stack(tmp_path / "stack.mrcs", blob_images(N), PIXEL_A)
    write_star(tmp_path / "a.star", ParticleMetadata([f"{i + 1:06d}@stack.mrcs" for i in range(N)], optics(N)), 32)
    return tmp_path


def rewritten(folder, particles=(), optics=(), drop=()):
    """Set columns of the two tables of a STAR file, and remove columns; return the path."""
    table = star.read_table(folder / "a.star")
    tables = table.particles.assign(**dict(particles)), table.optics.assign(**dict(optics))
    star.write_table(folder / "a.star", *(one.drop(columns=list(drop), errors="ignore") for one in tables))
    return folder / "a.star"


def flat(folder, **columns):
    """Write the particles as RELION 3.0 does, without an optics table; return the path."""
    particles = star.read_table(folder / "a.star").particles.drop(columns=star.GROUP).assign(**RELION30 | columns)
    write_blocks(folder / "a.star", {"images": particles})
    return folder / "a.star"


def written(folder, source):
    """Write predictions for every particle of a table; return the table of the written file."""
    names = star.read_table(source).names().tolist()
    n, generator = len(names), torch.Generator().manual_seed(0)
    Predictions(names, random_rotations(n, generator), torch.ones(n, 2), torch.arange(n) % 2, torch.zeros(n, 1)).write(
        folder / "out", source
    )
    return star.read_table(folder / "out/predictions.star")


# ---- pixel sizes and origins


@pytest.mark.parametrize("columns", [
    {"rlnImagePixelSize": 1.5}, {"rlnPixelSize": 1.5}, {"rlnDetectorPixelSize": 5.0, "rlnMagnification": 5e4 / 1.5},
], ids=lambda columns: next(iter(columns)))  # fmt: skip
def test_a_flat_table_states_the_pixel_size_in_three_ways(folder, columns):
    table = star.read_table(flat(folder, **columns, rlnOriginX=2.0, rlnOriginY="-1"))
    np.testing.assert_allclose(table.pixel_sizes(), 1.5, rtol=1e-6)
    np.testing.assert_allclose([table.numbers(name) for name in star.ORIGINS], [[3.0] * N, [-1.5] * N], rtol=1e-6)
    assert not {"rlnOriginX", "rlnOriginY", "rlnPixelSize", "rlnMagnification", "rlnDetectorPixelSize"} & set(table.particles)


def test_contradicting_pixel_sizes_are_reported(folder):
    path = rewritten(folder, {"rlnPixelSize": ["1.5"] * 5 + ["3.0"] * 3})
    with pytest.warns(UserWarning, match="row 6: pixel size 3 Å from rlnPixelSize, and 1.5 Å from other columns; using 1.5 Å"):
        assert (star.read_table(path).pixel_sizes() == 1.5).all()
    path = rewritten(folder, {"rlnImagePixelSize": "2.0"}, drop=["rlnPixelSize"])
    with pytest.warns(UserWarning, match="row 1: pixel size 2 Å from rlnImagePixelSize, and 1.5 Å"):
        assert (star.read_table(path).pixel_sizes() == 1.5).all()  # as in RELION, the size of the optics group counts
    path = flat(folder, rlnImagePixelSize="2.0", rlnDetectorPixelSize=5.0, rlnMagnification=1e4)
    with pytest.warns(UserWarning, match="pixel size 5 Å from rlnDetectorPixelSize and rlnMagnification, and 2 Å from"):
        assert (star.read_table(path).pixel_sizes() == 2.0).all()


def test_origins_in_pixels_beside_an_optics_table_are_converted_and_do_not_survive(folder):
    path = rewritten(folder, {"rlnOriginX": 4.0, "rlnOriginY": -2.0, **dict.fromkeys(star.ANGLES, 0.0)})
    table = star.read_table(path)
    torch.testing.assert_close(poses_of(table, PIXEL_A).shifts_px, torch.tensor([[-4.0, 2.0]]).expand(N, 2))
    found = written(folder, path)
    assert not {"rlnOriginX", "rlnOriginY"} & set(found.particles) and (found.numbers("rlnOriginXAngst") == -1).all()
    path = rewritten(folder, {"rlnOriginX": 4.0, "rlnOriginXAngst": 9.0})
    with pytest.warns(UserWarning, match="row 1: rlnOriginX is 6 Å, but rlnOriginXAngst is 9.0*; using rlnOriginXAngst"):
        assert (star.read_table(path).numbers("rlnOriginXAngst") == 9).all()


# ---- optics groups and flags


def two_rows(folder, **second):
    table = star.read_table(folder / "a.star")
    groups = pd.concat([table.optics, table.optics.assign(**second)], ignore_index=True)
    star.write_table(folder / "a.star", table.particles, groups)
    return folder / "a.star"


def test_an_optics_group_with_two_meanings_is_refused_and_a_repeated_row_is_not(folder):
    assert len(star.read_table(two_rows(folder)).optics) == 1
    with pytest.raises(
        HetacumnError, match="row 2: optics group 1 has rlnImagePixelSize 3.0, and 1.5.* in an earlier row; expected"
    ):
        star.read_table(two_rows(folder, rlnImagePixelSize="3.0"))


def test_joined_files_are_refused(folder):
    text = (folder / "a.star").read_text()
    (folder / "a.star").write_text(text + text)
    with pytest.raises(HetacumnError, match="2 tables of particles and 2 tables of optics groups; expected one of each"):
        star.read_table(folder / "a.star")


@pytest.mark.parametrize("column", star.CORRECTIONS)
def test_images_that_are_already_corrected_are_refused(folder, column):
    assert len(star.read_table(rewritten(folder, optics={column: "0"}))) == N
    with pytest.raises(HetacumnError, match=f"row 1: {column} marks the image as .*; expected images without CTF correction"):
        star.read_table(rewritten(folder, optics={column: "1"}))


def test_the_box_is_written_also_beside_a_group_without_particles(folder):
    path = rewritten(folder, drop=["rlnImageSize"])
    table = star.read_table(path)
    star.write_table(path, table.particles, pd.concat([table.optics, table.optics.assign(rlnOpticsGroup="7")]))
    assert written(folder, path).optics["rlnImageSize"].tolist() == ["32", "32"]


def test_a_missing_amplitude_contrast_is_a_setting(folder):
    path = rewritten(folder, drop=["rlnAmplitudeContrast"])
    with pytest.raises(HetacumnError, match="no column rlnAmplitudeContrast; expected .* the setting stack.amplitude_contrast"):
        read_particles(path, progress=False)
    settings = Preprocessing(box=16, contrast="white", amplitude_contrast=0.07)
    stack = prepare_stack(path, folder / "prepared", settings, progress=False)
    for metadata in (stack.metadata, reopen(folder / "prepared").metadata, SourceImages(stack).metadata,
                     read_particles(path, amplitude_contrast=0.07, progress=False).metadata):  # fmt: skip
        torch.testing.assert_close(metadata.optics.amplitude_contrast, torch.full((N,), 0.07))
    assert (star.read_table(stack.star).numbers("rlnAmplitudeContrast") == 0.07).all()


def test_scale_and_b_factor_damp_the_ctf(folder):
    k = frequency_grid(16)
    plain = optics_of(star.read_table(folder / "a.star"))
    path = rewritten(folder, {"rlnCtfScalefactor": 0.5, "rlnCtfBfactor": 200.0})
    per_A2 = (k / PIXEL_A).square().sum(1)
    torch.testing.assert_close(optics_of(star.read_table(path)).ctf(k), 0.5 * plain.ctf(k) * torch.exp(-200 * per_A2 / 4))
    with pytest.warns(UserWarning, match="rlnCtf(Scale|B)factor is .*; the CTF includes it"):
        stack = prepare_stack(path, folder / "prepared", SETTINGS, progress=False)
    again = optics_of(star.read_table(stack.star), PIXEL_A)
    torch.testing.assert_close(again.ctf(k), optics_of(star.read_table(path)).ctf(k))
    neutral = optics_of(star.read_table(rewritten(folder, {"rlnCtfScalefactor": 1.0, "rlnCtfBfactor": 0.0})))
    assert neutral.scale is None and neutral.b_factor_A2 is None


def test_columns_of_other_programs_pass_through_as_text(folder):
    kept = {"rlnMicrographName": ["grid #4/O'Neill 1.mrc"] * N, "ucsfUid": [f"{2**64 - 9 + i}" for i in range(N)],
            "rlnHelicalTubeID": [f"{i:03d}" for i in range(N)], "rlnKurtosisExcessValue": ["nan", "-nan", "inf", "<NA>"] * 2,
            "rlnCtfMaxResolution": ["1.234567e-09", "4.50"] * 4, "rlnMtfFileName": [""] * N}  # fmt: skip
    found = written(folder, rewritten(folder, kept, {"rlnMicrographOriginalPixelSize": "0.8300"}))
    assert {name: found.particles[name].tolist() for name in kept} == kept
    assert found.optics["rlnMicrographOriginalPixelSize"].tolist() == ["0.8300"]


# ---- names of stacks


def test_stacks_beside_a_linked_table_are_found(folder):
    (folder / "store").mkdir()
    (folder / "a.star").rename(folder / "store/a.star")
    (folder / "a.star").symlink_to(folder / "store/a.star")
    stack = prepare_stack(folder / "a.star", folder / "prepared", SETTINGS, progress=False)
    assert len(stack) == len(SourceImages(reopen(folder / "prepared"))) == N
    (folder / "stack.mrcs").rename(folder / "store/stack.mrcs")
    assert find_stack("stack.mrcs", folder / "a.star") == folder / "store/stack.mrcs"


def test_absolute_names_of_another_machine_are_found_in_the_data_directory(folder):
    for place in ("J9/extract", "J9"):
        (folder / "data" / place).mkdir(parents=True, exist_ok=True)
        (folder / "data" / place / "stack.mrcs").write_bytes(b"")
    name, data = "/gpfs/lab/J9/extract/stack.mrcs", folder / "data"
    assert find_stack(name, folder / "a.star", data) == data / "J9/extract/stack.mrcs"
    assert find_stack("/gpfs/lab/stack.mrcs", folder / "a.star", folder) == folder / "stack.mrcs"
    assert find_stack(str(folder / "stack.mrcs"), folder / "a.star", data) == folder / "stack.mrcs"
    assert find_stack(name, folder / "a.star") is None and find_stack("J8/stack.mrcs", folder / "a.star", data) is None


def test_the_folder_of_the_stack_names_is_known(folder):
    (folder / "job").mkdir()
    source = (folder / "a.star").rename(folder / "job/a.star")
    for place in ("job", "elsewhere"):  # names relative to a parent folder of the table, and to a data directory
        stack = prepare_stack(source, folder / "prepared", SETTINGS, None if place == "job" else folder / place, progress=False)
        assert stack.stack_folder == (folder if place == "job" else folder / place)
        assert find_stack("stack.mrcs", folder / "other/b.star", stack.stack_folder).parent == stack.stack_folder
        (folder / "elsewhere").mkdir(exist_ok=True)
        (folder / "stack.mrcs").rename(folder / "elsewhere/stack.mrcs") if place == "job" else None


@pytest.mark.parametrize("name", ["3@stack.mrcs", "000003@./stack.mrcs", "000003@link.mrcs"])
def test_one_image_under_two_names_is_refused(folder, name):
    (folder / "link.mrcs").symlink_to(folder / "stack.mrcs")
    names = [f"{i + 1:06d}@stack.mrcs" for i in range(N)]
    path = rewritten(folder, {"rlnImageName": [*names[:5], name, *names[6:]]})
    with pytest.raises(HetacumnError, match="row 6 names image 3 of .*stack.mrcs, as row 3 does; expected every image"):
        prepare_stack(path, folder / "prepared", SETTINGS, progress=False)
    assert not (folder / "prepared").exists()


# ---- MRC


def mrc_bytes(images: np.ndarray, order: str = "<", mode: int = 2, ext: bytes = b"", **fields: int | float) -> bytes:
    """Return the bytes of an MRC stack; ``fields`` are 4-byte words of the header, named ``at_<offset>``."""
    header = np.zeros(HEADER_BYTES // 4, f"{order}i4")
    header[:4] = *images.shape[::-1], mode
    header[7:10] = *images.shape[1:], 1
    header.view(f"{order}f4")[10:13] = [images.shape[2] * PIXEL_A, images.shape[1] * PIXEL_A, PIXEL_A]
    for name, value in fields.items():
        at = int(name.removeprefix("at_")) // 4
        header.view(f"{order}f4" if isinstance(value, float) else header.dtype)[at] = value
    return header.tobytes() + ext + np.ascontiguousarray(images).tobytes()


KINDS = {"i1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_is_read_in_both_byte_orders(tmp_path, kind, order):
    images = np.arange(4 * 6 * 6).reshape(4, 6, 6).clip(0, 127).astype(order + kind)
    (tmp_path / "a.mrcs").write_bytes(mrc_bytes(images, order, KINDS[kind]))
    assert (open_stack(tmp_path / "a.mrcs") == images).all()


@pytest.mark.parametrize("fields, unsigned", [
    ({}, False), ({"at_80": 250.0}, True), ({"at_80": 100.0}, False), ({"at_80": 1e9}, False),
    ({"at_152": 1146047817}, True), ({"at_152": 1146047817, "at_156": 1}, False),
], ids=str)  # fmt: skip
def test_bytes_are_unsigned_if_the_header_says_so(tmp_path, fields, unsigned):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    (tmp_path / "a.mrcs").write_bytes(mrc_bytes(images, mode=0, **fields))
    assert (open_stack(tmp_path / "a.mrcs") == (images if unsigned else images.view(np.int8))).all()


@pytest.mark.parametrize("fields, ext, message", [
    ({}, b"x" * 3 * 4096, r"stack.mrcs: \d+ bytes; expected \d+ for the 8 images of its header, which does not count"),
    ({"at_8": 5}, b"", "row 6 names image 6 of .*stack.mrcs, which holds 5"),
    ({"at_92": 1024}, b"", "truncated"),
    ({"at_12": 154285104}, b"", "mode 154285104 .little-endian. or -?[0-9]+ .big-endian.; expected 0, 1, 2, 6 or 12"),
], ids=["extended header", "few images", "no extended header", "mode"])  # fmt: skip
def test_a_header_that_does_not_fit_its_file_is_refused(folder, fields, ext, message):
    (folder / "stack.mrcs").write_bytes(mrc_bytes(blob_images(N), ext=ext, **fields))
    with pytest.raises(HetacumnError, match=message):
        read_particles(folder / "a.star", progress=False)


@pytest.mark.parametrize(
    "name, what", [("stack.mrcs", "an MRC stack"), ("a.cs", "a cryoSPARC table"), ("a.star", "a STAR file")]
)
def test_a_pointer_of_git_lfs_is_named(folder, name, what):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n")
    with pytest.raises(HetacumnError, match=f"{name}: a pointer of Git LFS, not {what}; expected the data: run git lfs pull"):
        read_particles(folder / ("a.cs" if name == "a.cs" else "a.star"), progress=False)


# ---- cryoSPARC


def cs_rows(n: int = N, extra=()) -> np.ndarray:
    """Return a cryoSPARC table of ``stack.mrcs`` with equal optics for all particles, and with further fields."""
    numbers = {"blob/psize_A": PIXEL_A, "ctf/accel_kv": 300, "ctf/cs_mm": 2.7, "ctf/amp_contrast": 0.1, "ctf/df1_A": 1e4,
               "ctf/df2_A": 1e4, "ctf/df_angle_rad": 0, "ctf/phase_shift_rad": 0}  # fmt: skip
    rows = np.zeros(n, [("uid", "<u8"), ("blob/path", "S12"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                        *((name, "<f4") for name in numbers), *extra])  # fmt: skip
    rows["uid"] = np.random.default_rng(0).integers(1, 2**63, n, dtype=np.uint64)
    rows["blob/path"], rows["blob/idx"], rows["blob/shape"] = b">stack.mrcs", np.arange(n), 32
    for name, value in numbers.items():
        rows[name] = value
    return rows


def save_cs(path, rows):
    with open(path, "wb") as file:
        np.save(file, rows)
    return path


def test_a_table_after_many_classes_is_read(folder):
    fields = [(f"alignments_class3D_{i}/{name}", "<f4") for i in range(100) for name in ("pose", "shift", "error", "alpha")]
    path = save_cs(folder / "a.cs", cs_rows(extra=fields))
    with pytest.raises(ValueError, match="large"):
        np.load(path)
    assert len(read_particles(path, progress=False)) == N


def test_exposure_groups_micrographs_and_coordinates_of_a_cs_file_are_kept(folder):
    shape, fractions = ("location/micrograph_shape", "<u4", (2,)), [(f"location/center_{axis}_frac", "<f4") for axis in "xy"]
    rows = cs_rows(extra=[("ctf/exp_group_id", "<u4"), ("location/micrograph_path", "S9"), shape, *fractions])
    rows["ctf/exp_group_id"], rows["location/micrograph_path"] = 5 + np.arange(N) % 3, b">J2/m.mrc"
    rows["location/micrograph_shape"], rows["location/center_x_frac"], rows["location/center_y_frac"] = (400, 200), 0.25, 0.5
    table = written(folder, save_cs(folder / "a.cs", rows))
    assert table.numbers("rlnOpticsGroup").tolist() == [1, 2, 3, 1, 2, 3, 1, 2] and len(table.optics) == 3
    assert set(table.particles["rlnMicrographName"]) == {"J2/m.mrc"}
    assert (table.numbers("rlnCoordinateX") == 50).all() and (table.numbers("rlnCoordinateY") == 200).all()


def test_beam_tilt_of_a_cs_file_belongs_to_the_optics_groups(folder):
    rows = cs_rows(extra=[("ctf/tilt_A", "<f4", (2,)), ("ctf/exp_group_id", "<u4")])
    rows["ctf/exp_group_id"] = np.arange(N) % 2
    rows["ctf/tilt_A"] = np.array([[2.7e4, 0], [0, 5.4e4]])[np.arange(N) % 2]
    table = written(folder, save_cs(folder / "a.cs", rows))
    assert "rlnBeamTiltX" not in table.particles and len(table.optics) == 2
    np.testing.assert_allclose(table.numbers("rlnBeamTiltX")[:2], [1, 0], atol=1e-6)
    np.testing.assert_allclose(table.numbers("rlnBeamTiltY")[:2], [0, 2], atol=1e-5)


def aligned(rows):
    """Return a table with the fields of an alignment at its end, and with fields of other jobs."""
    fields = [("alignments3D/shift", "<f4", (2,)), ("alignments3D/pose", "<f4", (3,)), ("alignments3D/psize_A", "<f4"),
              ("alignments3D/class", "<u4"), ("alignments3D/split", "<u4"), ("pick_stats/ncc_score", "<f4"),
              ("x/path", "S3")]  # fmt: skip
    full = cs_rows(extra=fields)
    full["alignments3D/psize_A"], full["pick_stats/ncc_score"], full["x/path"] = 0.75, np.arange(len(rows)), b"a/b"
    full["alignments3D/split"] = np.arange(len(rows)) % 2
    return full


PREDICTED = ["alignments3D/shift", "alignments3D/pose", "alignments3D/class", "alignments3D/psize_A"]


@pytest.mark.parametrize("has_alignment", [True, False])
def test_predictions_of_a_cs_file_are_a_cs_file_with_its_fields(folder, has_alignment):
    before = aligned(cs_rows()) if has_alignment else cs_rows()
    source = save_cs(folder / "a.cs", before)
    names = star.read_table(source).names()[[5, 0, 2]].tolist()
    generator = torch.Generator().manual_seed(0)
    some = Predictions(names, random_rotations(3, generator), 9 * torch.randn(3, 2, generator=generator),
                       torch.tensor([2, 0, 1]), torch.zeros(3, 1))  # fmt: skip
    some.write(folder / "out", source)
    rows = np.load(folder / "out/predictions.cs")
    assert rows.dtype.names[: len(before.dtype.names)] == before.dtype.names
    assert all(rows.dtype[name] == before.dtype[name] for name in before.dtype.names)
    assert all((rows[name] == before[[5, 0, 2]][name]).all() for name in before.dtype.names if name not in PREDICTED)
    assert rows["alignments3D/class"].tolist() == [2, 0, 1]
    again, star_file = (star.read_table(folder / "out" / name) for name in ("predictions.cs", "predictions.star"))
    for table in (again, star_file):
        assert table.names().tolist() == names
        poses = poses_of(table, 1.0)
        torch.testing.assert_close(poses.rotations, some.rotations, atol=1e-4, rtol=0)
        torch.testing.assert_close(poses.shifts_px, some.shifts_A, atol=1e-4, rtol=0)
    some.write(folder / "out", folder / "a.star")
    assert not (folder / "out/predictions.cs").exists()


def test_cryosparc_tools_reads_the_predictions(folder):
    dataset = pytest.importorskip("cryosparc.dataset")
    source = save_cs(folder / "a.cs", aligned(cs_rows()))
    written(folder, source)
    ours, theirs = np.load(folder / "out/predictions.cs"), dataset.Dataset.load(folder / "out/predictions.cs")
    assert (theirs["uid"] == np.load(source)["uid"]).all() and list(theirs.fields()) == list(ours.dtype.names)
    assert all((theirs[name] == (ours[name].astype(str) if ours.dtype[name].kind == "S" else ours[name])).all()
               for name in ours.dtype.names)  # fmt: skip


def split_fields(path, rows, beside):
    """Write a table without CTF, and to ``beside`` the CTF of its and other particles in another order; return both paths."""
    ctf = [name for name in rows.dtype.names if name.startswith("ctf/")]
    rest = [name for name in rows.dtype.names if name not in ctf]
    own = np.empty(len(rows) - 2, [(name, rows.dtype[name]) for name in rest])
    other = np.empty(len(rows), [(name, rows.dtype[name]) for name in ("uid", *ctf)])
    for table, part in ((own, rows[:-2]), (other, rows[::-1])):
        for name in table.dtype.names:
            table[name] = part[name]
    return save_cs(path, own), save_cs(beside, other)


@pytest.mark.parametrize("name, beside", [
    ("particles_selected.cs", "J13_passthrough_particles_selected.cs"),
    ("J24_012_particles.cs", "J24_passthrough_particles.cs"),
    ("J24_012_particles.cs", "J24_passthrough_particles_all_classes.cs"),
])  # fmt: skip
def test_fields_of_the_passthrough_file_are_joined_by_uid(folder, name, beside):
    rows = cs_rows()
    rows["ctf/df1_A"] = 1e4 + np.arange(N)
    path, other = split_fields(folder / name, rows, folder / beside)
    with pytest.warns(UserWarning, match=f"ctf/df1_A.* are read from {beside}, by uid"):
        table = star.read_table(path)
    assert table.numbers("rlnDefocusU").tolist() == (1e4 + np.arange(N - 2)).tolist()
    stack = prepare_stack(path, folder / "prepared", SETTINGS, progress=False)
    rows["ctf/df1_A"] += 50
    split_fields(path, rows, other)
    with pytest.raises(HetacumnError, match=f"{name}: changed since .*prepared was made from it"):
        reopen(stack.folder)
    again = prepare_stack(path, folder / "prepared", SETTINGS, progress=False)
    assert again.metadata.optics.defocus_u_A[0] == 10050


def test_a_passthrough_file_of_other_particles_is_not_joined(folder):
    path, other = split_fields(folder / "particles_selected.cs", cs_rows(), folder / "J13_passthrough_particles_selected.cs")
    save_cs(other, np.load(other)[:3])
    with pytest.raises(HetacumnError, match="particles_selected.cs: no column ctf/.* passthrough"):
        star.read_table(path)


@pytest.mark.parametrize("content, message", [
    (np.zeros(3), "an array without columns"),
    (np.array([{}]), "columns of Python objects"),
    (cs_rows(0), "no rows; expected one row for each particle"),
], ids=["no columns", "pickle", "empty"])  # fmt: skip
def test_other_arrays_are_no_cryosparc_table(folder, content, message):
    with pytest.raises(HetacumnError, match=message):
        star.read_table(save_cs(folder / "a.cs", content))


def test_the_file_of_a_cryosparc_group_is_refused(folder):
    (folder / "a.csg").write_text("created: today\n")
    with pytest.raises(HetacumnError, match="a.csg: lists the files of a cryoSPARC group; expected a STAR or .cs file"):
        star.read_table(folder / "a.csg")


def test_stack_names_that_relion_reads_as_maps_are_reported(folder):
    (folder / "stack.mrcs").rename(folder / "stack.mrc")
    path = rewritten(folder, {"rlnImageName": [f"{i + 1}@stack.mrc" for i in range(N)]})
    with pytest.warns(UserWarning, match="the name of stack stack.mrc does not end in .mrcs, as RELION expects"):
        written(folder, path)


def test_an_optics_group_is_not_rounded(folder):
    with pytest.raises(HetacumnError, match="row 1: optics group 1.5 is not in the optics table; expected one of 1"):
        star.read_table(rewritten(folder, {"rlnOpticsGroup": "1.5"})).pixel_sizes()
