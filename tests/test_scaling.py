"""benchmark/scaling.py: its stacks have the field of view on which the model was trained."""

import numpy as np
import pytest
import scaling
from test_particles import blob_images, optics, write_stack

from hetacumn.io.stacks import open_stack
from hetacumn.io.star import read_table
from hetacumn.particles.metadata import ParticleMetadata, write_star


def test_a_made_stack_has_the_field_of_view_of_its_source(tmp_path):
    images = blob_images(10, 128)
    write_stack(tmp_path / "particles.mrcs", images)
    names = [f"{i + 1}@particles.mrcs" for i in range(10)]
    write_star(tmp_path / "particles.star", ParticleMetadata(names, optics(10)), images.shape[-1])
    before = read_table(tmp_path / "particles.star")
    made = scaling.make(tmp_path / "made", tmp_path / "particles.star", 25)
    table, stack = read_table(made), open_stack(made.with_suffix(".mrcs"))
    assert len(table) == len(stack) == 25
    assert table.pixel_sizes() * stack.shape[-1] == pytest.approx(before.pixel_sizes()[0] * images.shape[-1])
    assert np.corrcoef(stack[3].ravel(), stack[13].ravel())[0, 1] > 0.5  # one particle with two samples of the noise
