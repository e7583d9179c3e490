"""The table and the folders that a run uses if its parameters do not give them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hetacumn.common.errors import HetacumnError
from hetacumn.particles.preprocessing import Preprocessing
from hetacumn.particles.run_paths import (
    RunPaths,
    evaluation_folder,
    particles_folder,
    prediction_paths,
    prepared_beside,
    program_paths,
    source_table,
    training_paths,
)

TABLE = Path("results/adk/particles/particles.star")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_note(model: str, source: str, **facts: object) -> None:
    """Write the prepared.json that a preparation of ``source`` writes in the folder of the model."""
    note = Path(model) / "prepared/prepared.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"made_from": {"files": [[str(Path(source).resolve()), 1, 1]], **facts}}))


def test_the_methods_of_a_dataset_share_its_prepared_images():
    for out in ("results/adk/em", "results/convergence/3", "elsewhere"):
        paths = training_paths("adk", "", "", out)
        assert paths == RunPaths(TABLE, Path("results/adk/prepared"), Path(out), Path(out))
        assert prediction_paths("adk", "", "", "", out) == paths


def test_a_dataset_elsewhere_has_its_prepared_images_beside_its_particles():
    star = "results/benchmark/adk-snr10/particles/particles.star"
    paths = training_paths("adk-snr10", star, "", "results/benchmark/adk-snr10/em")
    assert paths.source == Path(star) and paths.prepared == Path("results/benchmark/adk-snr10/prepared")


def test_a_users_stack_is_prepared_in_the_folder_of_the_run():
    paths = training_paths("", "my/a.star", "", "mine")
    assert paths == RunPaths(Path("my/a.star"), Path("mine/prepared"), Path("mine"), Path("mine"))


def test_prediction_uses_the_prepared_images_of_training_only_for_the_same_table():
    write_note("model", "my/a.star")
    same, others = (prediction_paths("", star, "", "model", "out") for star in ("my/a.star", "my/b.star"))
    assert same == RunPaths(Path("my/a.star"), Path("model/prepared"), Path("model"), Path("out"))
    assert others.prepared == Path("out/prepared")
    assert prediction_paths("", "my/a.star", "", "", "out") == RunPaths(
        Path("my/a.star"), Path("out/prepared"), Path("out"), Path("out")
    )


def test_prediction_with_another_preprocessing_does_not_replace_the_prepared_images_of_training():
    write_note("model", "my/a.star", settings=asdict(Preprocessing(box=32)))
    same, others = (
        prediction_paths("", "my/a.star", "", "model", "out", Preprocessing(box=32, mask=mask)) for mask in (False, True)
    )
    assert same.prepared == Path("model/prepared") and others.prepared == Path("out/prepared")


def test_a_dataset_does_not_use_the_images_in_a_models_folder():
    write_note("model", str(TABLE))
    assert prediction_paths("adk", "", "", "model", "out").prepared == Path("results/adk/prepared")


def test_a_given_folder_is_used():
    write_note("model", "my/a.star")
    for dataset in ("", "adk"):
        assert training_paths(dataset, "my/a.star", "given", "out").prepared == Path("given")
        assert prediction_paths(dataset, "my/a.star", "given", "model", "out").prepared == Path("given")
    for found in (particles_folder("adk", "given"), evaluation_folder("adk", "given"), prepared_beside(TABLE, "given")):
        assert found == Path("given")
    assert program_paths("adk", "relion", "a.star", "given") == (Path("a.star"), Path("given"))


def test_defaults_of_the_other_notebooks():
    assert particles_folder("empiar-10180") == Path("results/empiar-10180/particles")
    assert evaluation_folder("adk") == Path("results/adk/evaluation")
    assert prepared_beside(TABLE) == Path("results/adk/prepared")
    folder = Path("results/benchmark/adk-snr10-3k")
    assert program_paths("adk-snr10-3k", "relion") == (folder / "particles/particles.star", folder / "relion")


def test_neither_a_dataset_nor_particles_is_refused():
    calls = (source_table, [""]), (training_paths, ["", "", "", "out"]), (prediction_paths, ["", "", "", "", "out"])
    for find, arguments in calls:
        with pytest.raises(HetacumnError, match="neither dataset nor particles is given; expected"):
            find(*arguments)
