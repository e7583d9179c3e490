"""Particle files: real files compared with plain text parsing, round trips, and every kind of bad input."""

import io
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.io.stacks import new_stack
from hetacumn.particles.metadata import ParticleMetadata, Poses, optics_of, poses_of, write_star
from hetacumn.particles.reader import read_particles
from hetacumn.physics.fourier import crop_images
from hetacumn.physics.optics import Optics
from hetacumn.physics.rotations import distance_deg, from_euler, random_rotations, to_euler

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real particles in {REAL}")
REAL_FILES = ["betagal_17.star", "empiar_10076_7.star", "relion31.star", "empiar_10076_7.cs"]
OPTICS_FIELDS = ["defocus_u_A", "defocus_v_A", "astigmatism_deg", "voltage_kv", "cs_mm", "amplitude_contrast"]
CTF_COLUMNS = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnVoltage", "rlnSphericalAberration",
               "rlnAmplitudeContrast"]  # fmt: skip


def optics(n: int, pixel_A: float = 1.5) -> Optics:
    """Return optics of different defoci, with common values otherwise."""
    columns = [torch.linspace(1e4, 2e4, n), torch.linspace(0.9e4, 1.9e4, n), torch.linspace(-60, 60, n)]
    columns += [torch.full((n,), value) for value in (300.0, 2.7, 0.1, 0.0)]
    return Optics(*columns, pixel_A=pixel_A)


def blob_images(n: int, box: int = 32, sign: float = 1.0) -> np.ndarray:
    """Return images of a blob in noise, with the scale and offset of a microscope; ``sign`` -1 makes the blob dark."""
    axis = np.arange(box) - box // 2
    blob = np.exp(-(axis**2 + axis[:, None] ** 2) / (2 * (box / 8) ** 2))
    noise = np.random.default_rng(0).standard_normal((n, box, box))
    return (100 + 7 * (noise + sign * blob)).astype(np.float32)


def write_stack(path: Path, images: np.ndarray, pixel_A: float = 1.5) -> None:
    with mrcfile.new(path, data=images, overwrite=True) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = pixel_A


@pytest.fixture
def folder(tmp_path):
    """Return a folder with ten valid particles (stack.mrcs and particles.star), which the tests damage."""
    write_stack(tmp_path / "stack.mrcs", blob_images(10))
    names = [f"{i + 1:06d}@stack.mrcs" for i in range(10)]
    rotations = random_rotations(10, torch.Generator().manual_seed(0))
    poses = Poses(rotations, torch.linspace(-3, 3, 20).view(10, 2))
    write_star(tmp_path / "particles.star", ParticleMetadata(names, optics(10), poses), 32)
    return tmp_path


def edit(path: Path, change) -> None:
    """Read a STAR file's tables, change them, write them back."""
    tables = starfile.read(path, always_dict=True)
    change(tables["optics"], tables["particles"])
    starfile.write(tables, path)


def read(folder: Path, **options):
    return read_particles(folder / "particles.star", progress=False, **{"contrast": "white", "centre": False, **options})


# ---- real files, read a second way


def parse_plainly(name: str) -> tuple[pd.DataFrame, float]:
    """Return the columns of a real STAR file, by plain text parsing, and its pixel size in Å."""
    lines = (REAL / name).read_text().splitlines()
    start = max(i for i, line in enumerate(lines) if line.strip() == "loop_") + 1
    labels = [line.split()[0][1:] for line in lines[start:] if line.startswith("_rln")]
    table = pd.read_csv(io.StringIO("\n".join(lines[start + len(labels) :])), sep=r"\s+", names=labels)
    if name == "relion31.star":
        return table.assign(rlnVoltage=300.0, rlnSphericalAberration=0.01, rlnAmplitudeContrast=0.1), 2.806
    return table, 5e4 / table["rlnMagnification"].iloc[0]


@needs_real
@pytest.mark.parametrize("name", REAL_FILES[:3])
def test_real_star_files_agree_with_plain_text_parsing(name):
    table, pixel_A = parse_plainly(name)
    particles = read_particles(REAL / name, box=64, contrast="white", centre=False, progress=False)
    box = {"betagal_17.star": 200, "empiar_10076_7.star": 320, "relion31.star": 256}[name]
    assert particles.metadata.names == table["rlnImageName"].tolist()
    assert particles.pixel_A == pytest.approx(pixel_A * box / 64, rel=1e-6)
    for field, column in zip(OPTICS_FIELDS, CTF_COLUMNS, strict=True):
        np.testing.assert_allclose(getattr(particles.metadata.optics, field), table[column], rtol=1e-6)
    assert (particles.metadata.optics.phase_shift_deg == 0).all()
    if "rlnAngleRot" not in table:
        assert particles.metadata.poses is None
        return
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    np.testing.assert_allclose(to_euler(particles.metadata.poses.rotations), angles, atol=1e-3)
    origins_px = table[["rlnOriginX", "rlnOriginY"]] if "rlnOriginX" in table else (
        table[["rlnOriginXAngst", "rlnOriginYAngst"]] / pixel_A)  # fmt: skip
    np.testing.assert_allclose(particles.metadata.poses.shifts_px, -origins_px.to_numpy() * 64 / box, atol=1e-6)


@needs_real
def test_a_cs_file_agrees_with_the_star_file_of_the_same_particles():
    cs, relion = (read_particles(REAL / f"empiar_10076_7.{s}", box=64, contrast="black", progress=False)
                  for s in ("cs", "star"))  # fmt: skip
    assert torch.equal(cs.images, relion.images)
    assert cs.pixel_A == pytest.approx(relion.pixel_A, rel=1e-6)
    for field in OPTICS_FIELDS:
        torch.testing.assert_close(getattr(cs.metadata.optics, field), getattr(relion.metadata.optics, field))


@needs_real
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_survive_a_round_trip(name, tmp_path):
    table = star.read_table(REAL / name)
    before = optics_of(table)
    poses = poses_of(table, before.pixel_A)
    write_star(tmp_path / "again.star", ParticleMetadata(table.particles["rlnImageName"].tolist(), before, poses), 256)
    again = star.read_table(tmp_path / "again.star")
    after = optics_of(again)
    assert again.particles["rlnImageName"].tolist() == table.particles["rlnImageName"].tolist()
    assert after.pixel_A == pytest.approx(before.pixel_A, abs=1e-6)
    for field in [*OPTICS_FIELDS, "phase_shift_deg"]:
        torch.testing.assert_close(getattr(after, field), getattr(before, field))
    if poses is not None:
        assert distance_deg(poses.rotations, poses_of(again, before.pixel_A).rotations).max() < 1e-3
        torch.testing.assert_close(poses.shifts_px, poses_of(again, before.pixel_A).shifts_px, atol=1e-5, rtol=0)


def test_the_pose_in_a_cs_file_is_view_to_object(tmp_path):
    ctf = ["accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad", "phase_shift_rad"]
    rows = np.zeros(1, dtype=[
        ("ctf/anisomag", "f4", 4), ("blob/path", "S20"), ("blob/idx", "u4"), ("blob/shape", "u4", 2), ("blob/psize_A", "f4"),
        *((f"ctf/{name}", "f4") for name in ctf),
        ("alignments3D/pose", "f4", 3), ("alignments3D/shift", "f4", 2), ("alignments3D/psize_A", "f4"),
    ])  # fmt: skip
    rows["blob/path"], rows["blob/psize_A"], rows["blob/shape"], rows["blob/idx"] = b">J1/a.mrc", 2.0, 32, 4
    rows["alignments3D/pose"] = [0, 0, np.deg2rad(30)]  # about z: RELION's psi (or rot) of 30°
    rows["alignments3D/shift"], rows["alignments3D/psize_A"] = [1, -2], 4.0
    with open(tmp_path / "a.cs", "wb") as file:
        np.save(file, rows)
    table = star.read_table(tmp_path / "a.cs")
    assert table.particles["rlnImageName"].tolist() == ["000005@J1/a.mrc"]
    assert [table.numbers(f"rlnMagMat{i}{j}").tolist() for i in (0, 1) for j in (0, 1)] == [[1], [0], [0], [1]]
    expected = from_euler(torch.tensor([[0.0, 0.0, 30.0]]))
    torch.testing.assert_close(poses_of(table, 2.0).rotations, expected)
    torch.testing.assert_close(poses_of(table, 2.0).shifts_px, torch.tensor([[-2.0, 4.0]]))


# ---- images


def test_images_are_normalised_and_in_the_order_of_the_rows(folder):
    whole = read(folder)
    circle = (torch.arange(32) - 16).square()
    background = whole.images[:, circle[:, None] + circle > 16**2]
    torch.testing.assert_close(background.mean(1), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(background.std(1), torch.ones(10), atol=1e-5, rtol=0)
    rows = np.array([7, 2, 5])
    some = read(folder, rows=rows)
    assert some.metadata.names == [whole.metadata.names[i] for i in rows]
    assert torch.equal(some.images, whole.images[rows])
    assert torch.equal(some.metadata.optics.defocus_u_A, whole.metadata.optics.defocus_u_A[rows])
    assert torch.equal(some.metadata.poses.rotations, whole[rows].metadata.poses.rotations)


def test_cropping_keeps_white_noise_white_and_scales_pixel_and_shifts(tmp_path):
    noise = np.random.default_rng(1).standard_normal((50, 64, 64)).astype(np.float32)
    write_stack(tmp_path / "stack.mrcs", noise)
    poses = Poses(torch.eye(3).expand(50, 3, 3), torch.full((50, 2), 4.0))
    write_star(tmp_path / "particles.star", ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(50)], optics(50), poses), 64)
    whole, small = read(tmp_path), read(tmp_path, box=32)
    torch.testing.assert_close(small.images, crop_images(whole.images, 32))
    inner = small.images.std() * (32 / 31)  # the frequencies at Nyquist are zeroed
    assert inner.item() == pytest.approx(1, abs=0.02)
    assert small.pixel_A == pytest.approx(2 * whole.pixel_A)
    torch.testing.assert_close(small.metadata.poses.shifts_px, whole.metadata.poses.shifts_px / 2)


@pytest.mark.parametrize("dtype", [np.float16, np.int16, np.float32])
def test_every_number_format_is_read(folder, dtype):
    images = blob_images(10).astype(dtype)
    write_stack(folder / "stack.mrcs", images)
    background = read(folder).images
    for given, found in zip(images.astype(np.float64), background.double().numpy(), strict=True):
        assert np.corrcoef(given.ravel(), found.ravel())[0, 1] > 1 - 1e-6


@pytest.mark.parametrize("sign, name", [(1, "white"), (-1, "black")])
def test_contrast_is_detected_and_protein_is_made_bright(folder, sign, name):
    write_stack(folder / "stack.mrcs", blob_images(10, sign=sign))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, given = read(folder, contrast="auto"), read(folder, contrast=name)
    assert torch.equal(found.images, given.images)
    assert found.images[:, 12:20, 12:20].mean() > 0.3
    with pytest.warns(UserWarning, match="looks"):
        read(folder, contrast={"white": "black", "black": "white"}[name])


def test_the_contrast_of_few_rows_is_judged_by_the_whole_file(folder):
    images = blob_images(40, sign=-1)
    images[:2] = blob_images(2, sign=0.5)
    write_stack(folder / "stack.mrcs", images)
    write_star(folder / "particles.star", ParticleMetadata([f"{i + 1}@stack.mrcs" for i in range(40)], optics(40)), 32)
    some = read(folder, contrast="auto", rows=[0, 1])
    assert torch.equal(some.images, read(folder, contrast="black").images[:2])


def test_contrast_of_pure_noise_is_a_guess_that_warns(folder):
    noise = np.random.default_rng(0).standard_normal((10, 32, 32)).astype(np.float32)
    write_stack(folder / "stack.mrcs", noise)
    with pytest.warns(UserWarning, match="weak evidence"):
        read(folder, contrast="auto")


def test_particles_may_be_in_several_stacks_in_another_folder(folder):
    whole = read(folder)
    (folder / "data").mkdir()
    for name, part in (("a", slice(0, 4)), ("b", slice(4, 10))):
        write_stack(folder / "data" / f"{name}.mrcs", blob_images(10)[part])
    (folder / "stack.mrcs").unlink()
    names = [f"{i + 1}@a.mrcs" for i in range(4)] + [f"{i + 1}@b.mrcs" for i in range(6)]
    shuffled = np.random.default_rng(0).permutation(10)
    write_star(folder / "particles.star", ParticleMetadata([names[i] for i in shuffled], optics(10)), 32)
    assert torch.equal(read(folder, data_dir=folder / "data").images, whole.images[shuffled])


def test_stacks_with_paths_relative_to_the_project_folder_are_found(folder):
    (folder / "Refine3D" / "job1").mkdir(parents=True)
    moved = folder / "Refine3D" / "job1" / "particles.star"
    (folder / "particles.star").rename(moved)
    assert len(read_particles(moved, contrast="white", progress=False)) == 10


def test_different_voltages_make_different_optics_groups(tmp_path):
    voltage = torch.tensor([300.0, 200.0, 300.0, 200.0, 200.0, 300.0])
    mixed = Optics(**{**vars(optics(6)), "voltage_kv": voltage})
    write_star(tmp_path / "a.star", ParticleMetadata([f"{i + 1}@a.mrcs" for i in range(6)], mixed), 32, classes=torch.arange(6))
    table = star.read_table(tmp_path / "a.star")
    assert len(table.optics) == 2
    torch.testing.assert_close(optics_of(table).voltage_kv, mixed.voltage_kv)
    assert table.numbers("rlnClassNumber").tolist() == [1, 2, 3, 4, 5, 6]


def test_different_pixel_sizes_are_brought_to_one_field_of_view(tmp_path):
    """The same blob at 1.5 Å and at 2 Å per pixel, the latter with a wider field of view, gives equal images."""
    axis_A = (np.arange(32) - 16)[:, None] * np.array([1.5, 2.0])
    fine, coarse = (np.exp(-(a**2 + a[:, None] ** 2) / (2 * 8.0**2)).astype(np.float32) for a in axis_A.T)
    noise = np.random.default_rng(0).standard_normal((2, 32, 32)).astype(np.float32)
    for name, image, pixel_A in (("fine", fine, 1.5), ("coarse", coarse, 2.0)):
        write_stack(tmp_path / f"{name}.mrcs", image + 1e-3 * noise, pixel_A)
    names = [f"{i}@{name}.mrcs" for name in ("fine", "coarse") for i in (1, 2)]
    write_star(tmp_path / "particles.star", ParticleMetadata(names, optics(4)), 32)

    def change(groups, particles):
        groups.loc[1] = groups.loc[0]
        groups.loc[1, ["rlnOpticsGroup", "rlnImagePixelSize", "rlnVoltage"]] = [2, 2.0, 200.0]
        particles.loc[2:, "rlnOpticsGroup"] = 2

    edit(tmp_path / "particles.star", change)  # fmt: skip
    particles = read(tmp_path, box=16)
    assert particles.pixel_A == pytest.approx(3.0)  # field of view of 48 Å
    assert particles.images[:, 8, 8].min() > 100 and particles.metadata.optics.voltage_kv.tolist() == [300, 300, 200, 200]
    shapes = particles.images / particles.images.amax((1, 2), keepdim=True)
    torch.testing.assert_close(shapes[2], shapes[0], atol=0.03, rtol=0)
    some = read(tmp_path, box=16, rows=[2, 3])  # rows of the wider field only, cropped to the common field
    assert some.pixel_A == particles.pixel_A and torch.equal(some.images, particles.images[2:])


def test_the_pixel_size_of_the_table_is_used_with_a_warning(folder):
    write_stack(folder / "stack.mrcs", blob_images(10), pixel_A=7.0)
    with pytest.warns(UserWarning, match="stack.mrcs: pixel size 7 Å in the header, 1.5 Å in .*particles.star; using 1.5 Å"):
        assert read(folder).pixel_A == 1.5


def test_a_stack_without_a_star_file_reads_its_optics_from_a_csv_file_beside_it(folder):
    bare = folder / "stack.mrcs"
    with pytest.raises(HetacumnError, match="stack.csv: no such file; expected the optics"):
        read_particles(bare)
    table = star.read_table(folder / "particles.star")
    columns = {name: table.numbers(name) for name in [*CTF_COLUMNS, "rlnImagePixelSize"]}
    pd.DataFrame(columns).to_csv(folder / "stack.csv", index=False)
    particles = read_particles(bare, contrast="white", centre=False, progress=False)
    assert torch.equal(particles.images, read(folder).images) and particles.metadata.names == read(folder).metadata.names
    torch.testing.assert_close(particles.metadata.optics.defocus_u_A, read(folder).metadata.optics.defocus_u_A)
    pd.DataFrame(columns).iloc[:9].to_csv(folder / "stack.csv", index=False)
    with pytest.raises(HetacumnError, match="stack.csv: 9 rows; expected 10"):
        read_particles(bare)


# ---- bad input: one line that names the file, the row and what was expected


def spoil_image(folder, row, value):
    images = blob_images(10)
    images[row] = value
    write_stack(folder / "stack.mrcs", images)


def truncate(folder):
    data = (folder / "stack.mrcs").read_bytes()
    (folder / "stack.mrcs").write_bytes(data[:-5000])


def set_particle(column, row, value):
    def change(optics, particles):
        particles[column] = particles[column].astype(object)
        particles.loc[row, column] = value

    return lambda folder: edit(folder / "particles.star", change)  # fmt: skip


def drop_column(column):
    return lambda folder: edit(folder / "particles.star", lambda _, table: table.pop(column))


def set_optics(column, value):
    return lambda folder: edit(folder / "particles.star", lambda optics, _: optics.__setitem__(column, value))


BAD = {
    "no star": (lambda f: (f / "particles.star").unlink(), "particles.star: no such file"),
    "no stack": (lambda f: (f / "stack.mrcs").unlink(), "particles.star: row 1: no stack 'stack.mrcs'"),
    "truncated stack": (truncate, "stack.mrcs: truncated.* hold 8 whole images; expected 10 images"),
    "not a stack": (lambda f: (f / "stack.mrcs").write_bytes(b"x" * 4000), "stack.mrcs: not an MRC stack"),
    "short": (lambda f: (f / "stack.mrcs").write_bytes(b"x" * 40), "stack.mrcs: not an MRC stack .40 bytes"),
    "not a star": (lambda f: (f / "particles.star").write_text("hello\n"), "particles.star: .*expected"),
    "beyond the stack": (set_particle("rlnImageName", 3, "000011@stack.mrcs"),
                         "particles.star: row 4 names image 11 of .*stack.mrcs, which holds 10"),
    "no image number": (set_particle("rlnImageName", 3, "stack.mrcs"),
                        "particles.star: row 4: rlnImageName is 'stack.mrcs'; expected"),
    "missing column": (drop_column("rlnDefocusV"), "particles.star: no column rlnDefocusV; expected"),
    "missing names": (drop_column("rlnImageName"), "particles.star: no column rlnImageName; expected"),
    "missing pixel": (lambda f: edit(f / "particles.star", lambda table, _: table.pop("rlnImagePixelSize")),
                      "particles.star: no column rlnImagePixelSize"),
    "nan defocus": (set_particle("rlnDefocusU", 2, "nan"),
                    "particles.star: row 3: rlnDefocusU is nan; expected"),
    "unknown group": (set_particle("rlnOpticsGroup", 2, 7), "particles.star: row 3: optics group 7"),
    "nan image": (lambda f: spoil_image(f, 5, np.nan),
                  "stack.mrcs: image 6 .row 6 of .*particles.star. holds NaN"),
    "constant image": (lambda f: spoil_image(f, 5, 3.0),
                       "stack.mrcs: image 6 .row 6 of .*particles.star. is constant"),
    "odd box": (lambda f: write_stack(f / "stack.mrcs", blob_images(10, box=33)),
                "stack.mrcs: images of 33 × 33 .*row 1.*expected.* even"),
    "box differs": (set_optics("rlnImageSize", 64), "row 1: rlnImageSize is 64; expected 32, the box of .*stack.mrcs"),
    "endless pixel": (set_optics("rlnImagePixelSize", 1e300), "row 1: pixel size 1e.300 Å; expected more than 0, up to 10000"),
    "no group": (drop_column("rlnOpticsGroup"), "particles.star: no column rlnOpticsGroup; expected it for every particle"),
    "multiplied by the CTF": (set_optics("rlnCtfDataAreCtfPremultiplied", 1),
                              "particles.star: row 1: rlnCtfDataAreCtfPremultiplied marks the image as CTF-premultiplied"),
    "flipped phases": (lambda f: edit(f / "particles.star", lambda _, table: table.__setitem__("rlnCtfDataArePhaseFlipped", 1)),
                       "particles.star: row 1: rlnCtfDataArePhaseFlipped marks the image as phase-flipped; expected"),
    "volts": (set_optics("rlnVoltage", 300_000), "particles.star: row 1: rlnVoltage is 300000; expected 10 to 3000"),
    "contrast in per cent": (set_optics("rlnAmplitudeContrast", 10), "row 1: rlnAmplitudeContrast is 10; expected 0 to 1"),
    "defocus in metres": (set_particle("rlnDefocusV", 4, 1e9), "row 5: rlnDefocusV is 1e.09; expected -1e.06 to 1e.06"),
    "no pixel size": (set_optics("rlnImagePixelSize", 0.0), "particles.star: row 1: pixel size 0 Å; expected more than 0"),
}  # fmt: skip


@pytest.mark.parametrize("spoil, message", BAD.values(), ids=BAD.keys())
def test_bad_files_are_named_with_row_and_expectation(folder, spoil, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mrcfile warns of the NaN that it writes
        spoil(folder)
    with pytest.raises(HetacumnError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options, message", [
    ({"box": 64}, "box is 64; expected .* up to 32"),
    ({"box": 15}, "box is 15; expected an even"),
    ({"contrast": "grey"}, "contrast is 'grey'; expected one of auto, white, black"),
    ({"whiten": "maybe"}, "whiten is 'maybe'; expected true, false or auto"),
    ({"diameter_A": -1}, "diameter_A is -1; expected a number above 0"),
    ({"rows": [10]}, "expected at least one row, each from 0 to 9"),
    ({"rows": []}, "0 rows requested"),
])  # fmt: skip
def test_bad_options_are_refused(folder, options, message):
    with pytest.raises(HetacumnError, match=message):
        read(folder, **options)


def test_a_file_that_was_repaired_after_a_failure_is_read_again(folder):
    whole = (folder / "particles.star").read_text()
    (folder / "particles.star").write_text(whole.replace("_rlnDefocusU", "", 1))
    with pytest.raises(HetacumnError):
        read(folder)
    (folder / "particles.star").write_text(whole)
    assert len(read(folder)) == 10


def test_a_particle_far_outside_its_image_is_refused(folder):
    def far(optics, particles):
        particles["rlnOriginXAngst"], particles["rlnOriginYAngst"] = 0.0, 0.0
        particles.loc[3, "rlnOriginYAngst"] = 1e6

    edit(folder / "particles.star", far)
    with pytest.raises(HetacumnError, match=r"image 4 \(row 4 of .* does not hold its particle"):
        read(folder, centre=True)


def test_whitening_follows_its_setting_and_by_default_leaves_white_noise(folder):
    assert read(folder, whiten=True).metadata.noise is not None
    assert read(folder, whiten=False).metadata.noise is None and read(folder).metadata.noise is None


def test_a_masked_background_is_refused(folder):
    images = blob_images(10)
    circle = (np.arange(32) - 16) ** 2
    images[:, circle[:, None] + circle > 15**2] = 0
    write_stack(folder / "stack.mrcs", images)
    with pytest.raises(
        HetacumnError, match="particles.star: none of 10 sampled images is usable: the first image is constant outside"
    ):
        read(folder)


def test_a_stack_gets_its_name_only_when_it_is_complete(tmp_path):
    with pytest.raises(RuntimeError), new_stack(tmp_path / "a.mrcs", 3, 8, 1.0):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_stack(tmp_path / "a.mrcs", 3, 8, 1.25) as stack:
        stack[:] = 7
    with mrcfile.open(tmp_path / "a.mrcs") as mrc:
        assert (mrc.data == 7).all() and mrc.is_image_stack() and float(mrc.voxel_size.x) == 1.25
    assert [path.name for path in tmp_path.iterdir()] == ["a.mrcs"]
