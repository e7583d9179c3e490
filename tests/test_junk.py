"""benchmark/junk.py: the order of images in its mixed stack, and the counts of predicted classes by kind of image."""

import junk
import numpy as np
import torch
from test_particles import blob_images, optics, write_stack

from hetacumn.io.stacks import open_stack
from hetacumn.io.star import read_table
from hetacumn.particles.metadata import ParticleMetadata, write_star
from hetacumn.particles.predictions import Predictions


def test_a_mixed_stack_keeps_images_and_optics_together_and_adds_noise(tmp_path):
    for name, count in (("first", 8), ("second", 3)):
        (tmp_path / name).mkdir()
        write_stack(tmp_path / name / "particles.mrcs", blob_images(count, 32))
        names = [f"{i + 1}@particles.mrcs" for i in range(count)]
        write_star(tmp_path / name / "particles.star", ParticleMetadata(names, optics(count)), 32)
    stars = [tmp_path / name / "particles.star" for name in ("first", "second")]
    order = junk.mix(tmp_path, *stars, noise=4)
    assert sorted(order) == list(range(15)) and order.tolist() != sorted(order)
    images, table = open_stack(tmp_path / "particles.mrcs"), read_table(tmp_path / "particles.star")
    given = np.concatenate([open_stack(star.with_name("particles.mrcs")) for star in stars])
    defocus = np.concatenate([read_table(star).numbers("rlnDefocusU") for star in stars])
    for place, origin in enumerate(order):
        if origin < 11:
            np.testing.assert_array_equal(images[place], given[origin])
        else:
            assert abs(images[place].std() - 1) < 0.1
    np.testing.assert_allclose(table.numbers("rlnDefocusU"), np.r_[defocus, defocus[:4]][order])


def test_kinds_are_counted_by_class():
    n = 6
    found = Predictions([str(i) for i in range(n)], torch.eye(3).expand(n, 3, 3), torch.zeros(n, 2),
                        torch.tensor([0, 0, 1, 1, 1, 2]), torch.zeros(n, 1),
                        log_ratios=torch.tensor([9.0, 9, 9, 5, 5, 0]))  # fmt: skip
    kinds = {"b": np.array([0, 1, 2]), "a": np.array([5]), "c": np.array([3, 4])}
    table = junk.of_kinds(kinds, found).set_index("kind")
    assert table.index.tolist() == ["b", "a", "c"]
    assert table.loc["b", ["class_1", "class_2", "class_3"]].tolist() == [2, 1, 0]
    assert table.loc["c", "log_ratio_0.5"] == 5 and table.loc["a", "log_ratio_0.99"] == 0
