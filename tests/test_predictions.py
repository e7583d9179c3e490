"""Prediction files: RELION 3.1 STAR files from any source table, and reading them back."""

from dataclasses import replace

import numpy as np
import pytest
import starfile
import torch
from test_particles import OPTICS_FIELDS, REAL, REAL_FILES, needs_real, optics

from hetacumn.common.errors import HetacumnError
from hetacumn.io import star
from hetacumn.particles.metadata import ParticleMetadata, optics_of, write_star
from hetacumn.particles.predictions import Predictions
from hetacumn.physics.rotations import distance_deg, from_euler, random_rotations


def predictions(names: list[str]) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    n = len(names)
    return Predictions(names, random_rotations(n, generator), 5 * torch.randn(n, 2, generator=generator),
                       torch.arange(n) % 3, torch.randn(n, 4, generator=generator))  # fmt: skip


def assert_same(a: Predictions, b: Predictions) -> None:
    assert a.names == b.names
    assert distance_deg(a.rotations, b.rotations).max() < 0.01
    torch.testing.assert_close(a.shifts_A, b.shifts_A, atol=2e-6, rtol=1e-6)
    for field in ("class_probabilities", "log_ratios", "class_settled"):
        one, other = getattr(a, field), getattr(b, field)
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))
    assert torch.equal(a.classes, b.classes) and torch.equal(a.latents, b.latents)


@pytest.fixture
def source(tmp_path):
    """Write a source table that has the half sets of an earlier refinement."""
    path = tmp_path / "source.star"
    write_star(path, ParticleMetadata([f"{i + 1:06d}@stack.mrcs" for i in range(9)], optics(9)), 64)
    table = star.read_table(path)
    star.write_table(path, table.particles.assign(rlnRandomSubset=1), table.optics)
    return path


def test_round_trip_of_some_of_the_particles_in_any_order(source, tmp_path):
    some = predictions([f"{i:06d}@stack.mrcs" for i in (7, 2, 9, 1)])
    some.write(tmp_path / "out", source)
    assert_same(some, Predictions.read(tmp_path / "out"))
    rows = [6, 1, 8, 0]
    written = optics_of(star.read_table(tmp_path / "out" / "predictions.star"))
    torch.testing.assert_close(written.defocus_u_A, optics(9).defocus_u_A[rows])


def test_the_files_have_the_predicted_classes_poses_and_latents_and_the_half_sets_of_the_source(source, tmp_path):
    some = predictions(["000003@stack.mrcs", "000004@stack.mrcs"])
    some.write(tmp_path / "out", source)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["latents.csv", "predictions.star"]
    table = starfile.read(tmp_path / "out" / "predictions.star")["particles"]
    assert table["rlnClassNumber"].tolist() == [1, 2] and table["rlnRandomSubset"].tolist() == [1, 1]
    np.testing.assert_allclose(table[["rlnOriginXAngst", "rlnOriginYAngst"]], -some.shifts_A, atol=1e-5)
    angles = torch.from_numpy(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy())
    assert distance_deg(from_euler(angles).float(), some.rotations).max() < 0.01
    header = (tmp_path / "out" / "latents.csv").read_text().splitlines()[0]
    assert header == "particle,z1,z2,z3,z4,class" and "rlnLogLikeliContribution" not in table
    assert_same(some, Predictions.read(tmp_path / "out"))


@pytest.mark.parametrize("known", [("class_probabilities",), ("class_probabilities", "log_ratios")], ids=len)
def test_class_probabilities_and_log_ratios_are_kept_for_each_particle(source, tmp_path, known):
    some = replace(predictions([f"{i + 1:06d}@stack.mrcs" for i in range(9)]),
                   **{field: torch.linspace(0, 0.987, 9) for field in known})  # fmt: skip
    some.write(tmp_path / "out", source)
    found = Predictions.read(tmp_path / "out")
    assert_same(some, found)
    assert_same(found[np.array([7, 1])], some[np.array([7, 1])])
    if "log_ratios" not in known:
        return
    contributions = star.read_table(tmp_path / "out" / "predictions.star").numbers("rlnLogLikeliContribution")
    np.testing.assert_allclose(contributions, some.log_ratios, rtol=1e-5)


@needs_real
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_sources_keep_their_optics_and_their_columns(name, tmp_path):
    before = star.read_table(REAL / name)
    all_of_them = predictions(before.particles["rlnImageName"].tolist())
    all_of_them.write(tmp_path, REAL / name)
    assert_same(all_of_them, Predictions.read(tmp_path))
    after = star.read_table(tmp_path / "predictions.star")
    for field in OPTICS_FIELDS:
        torch.testing.assert_close(getattr(optics_of(after), field), getattr(optics_of(before), field))
    assert {c for c in before.particles if c.startswith(("rlnCoordinate", "rlnMicrograph", "rlnCtf"))} <= {
        *after.particles}  # fmt: skip
    assert not {"rlnLogLikeliContribution", "rlnOriginX"} & {*after.particles}
    assert after.numbers("rlnImageSize")[0] == {"betagal_17.star": 200, "relion31.star": 256}.get(name, 320)


def test_the_same_predictions_make_the_same_bytes(source, tmp_path):
    some = predictions([f"{i + 1:06d}@stack.mrcs" for i in range(9)])
    for out in ("a", "b"):
        some.write(tmp_path / out, source)
    for name in ("predictions.star", "latents.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_bad_input_is_named(source, tmp_path):
    with pytest.raises(HetacumnError, match="source.star: no row for 000001@other.mrcs"):
        predictions(["000001@other.mrcs"]).write(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()
    twice = tmp_path / "twice.star"
    write_star(twice, ParticleMetadata(["1@a.mrcs", "2@a.mrcs", "1@a.mrcs"], optics(3)), 64)
    with pytest.raises(HetacumnError, match="twice.star: row 3: 1@a.mrcs is named twice"):
        predictions(["1@a.mrcs"]).write(tmp_path / "out", twice)
    with pytest.raises(HetacumnError, match="predictions.star: no such file"):
        Predictions.read(tmp_path)
    with pytest.raises(HetacumnError, match="no column rlnAngleRot"):
        Predictions.read(source.rename(tmp_path / "predictions.star").parent)
    write_star(source, ParticleMetadata([f"{i + 1:06d}@stack.mrcs" for i in range(9)], optics(9)), 64)
    predictions(["000001@stack.mrcs"]).write(tmp_path / "out", source)
    for content, fault in (("", "cannot be read"), ("particle,z1\n", "no column class")):
        (tmp_path / "out" / "latents.csv").write_text(content)
        with pytest.raises(HetacumnError, match=f"latents.csv: {fault}"):
            Predictions.read(tmp_path / "out")
    (tmp_path / "out" / "latents.csv").write_text("particle,z1,class\nother,0,1\n")
    with pytest.raises(HetacumnError, match="latents.csv: other particles than"):
        Predictions.read(tmp_path / "out")
    (tmp_path / "out" / "latents.csv").write_text("particle,z1,class\n000001@stack.mrcs,0,9\n")
    with pytest.raises(HetacumnError, match="latents.csv: other classes than"):
        Predictions.read(tmp_path / "out")


def test_particles_are_selected_by_their_gain():
    some = replace(predictions(["a", "b", "c", "d"]), log_ratios=torch.tensor([3.0, -1.0, 50.0, 3.0]))
    assert some.rows_with_gain(3).tolist() == [0, 2, 3] and some.rows_with_gain(-9).tolist() == [0, 1, 2, 3]
    with pytest.raises(HetacumnError, match="no particle has a gain of 51 nats; expected at most 50"):
        some.rows_with_gain(51)
    with pytest.raises(HetacumnError, match="no log-likelihood gains; expected predictions of another grade than encoder"):
        replace(some, log_ratios=None).rows_with_gain(3)
