"""The stop sign: classes with right poses are settled, classes with random poses are not, and nothing else changes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import make_toy

from hetacumn.ab_initio.config import AbInitioConfig
from hetacumn.compute.processes import ProcessGroup
from hetacumn.particles.observations import Observations
from hetacumn.physics.rotations import perturb, random_rotations
from hetacumn.prediction import trust
from hetacumn.prediction.trust import (
    ClassTrust,
    class_names,
    describe,
    doubts,
    measure_trust,
    settled_of_images,
    settled_share,
    to_json,
)

GOOD, BAD, FEW = ClassTrust(900, 0.974, 8.1), ClassTrust(700, 0.08, 31.0), ClassTrust(12, None, 40.0)
N, BOX = 200, 24


@pytest.fixture(scope="module")
def toy(blobs):
    return make_toy([blobs], N, BOX, snr=1.0)


@pytest.fixture
def quick(monkeypatch):
    """Run one restart per class."""
    monkeypatch.setattr(trust, "MOST_RESTARTS", 1)


def centred(toy, device="cpu") -> Observations:
    data = toy.data
    moved = data.plane.translate(data.y, -toy.poses.shifts_px)
    return Observations(moved.to(device), data.ctf.to(device), data.plane.applied(lambda values: values.to(device)))


def test_right_poses_in_another_frame_are_settled_and_the_same_again(toy, quick, device):
    frame = random_rotations(1, torch.Generator().manual_seed(5))[0]
    known = perturb(toy.poses.rotations, 1.0, torch.Generator().manual_seed(6)) @ frame
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first, second = (settled_share(centred(toy, device), known.to(device), AbInitioConfig(), 1) for _ in range(2))
    assert first > 0.8
    assert second == (first if device == "cpu" else pytest.approx(first, abs=0.05))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_poses_are_not_settled(toy, quick):
    random = random_rotations(N, torch.Generator().manual_seed(1))
    assert settled_share(centred(toy), random, AbInitioConfig(), 1) < 0.2


def test_poses_of_images_of_noise_are_not_settled(toy, quick):
    data = centred(toy)
    noise = data.plane.pack(torch.randn(N, BOX, BOX, generator=torch.Generator().manual_seed(2)))
    assert settled_share(Observations(noise, data.ctf, data.plane), toy.poses.rotations, AbInitioConfig(), 1) < 0.2


def test_a_larger_box_of_the_same_field_of_view_has_the_same_frequencies(blobs):
    large, small = (make_toy([blobs], 2, box, snr=1.0).data for box in (64, 32))
    settings = [trust._restart_settings(data, AbInitioConfig()).consensus for data in (large, small)]
    assert [2 * value for value in settings[0].radius] == pytest.approx(settings[1].radius)
    assert 2 * settings[0].coarse_radius == pytest.approx(settings[1].coarse_radius)


def test_the_lines_of_the_command():
    assert describe((GOOD, BAD, FEW)) == "poses: class 1 97 % settled, class 2 8 % settled, class 3 too few images to test (12)"
    assert doubts((GOOD, BAD, FEW)) == [
        "class 2: poses not determined (8 % settled); the volume is not reliable",
        "class 3: too few images to test the poses (12); the volume may not be reliable",
    ]
    assert describe(()) == "poses: not tested"
    assert class_names((GOOD, BAD, FEW), 3) == ["class 1", "class 2\nposes not determined", "class 3\nnot tested"]
    assert class_names((), 2) == ["class 1", "class 2"]
    assert to_json((FEW,)) == [{"images": 12, "settled": None, "half_map_A": 40.0}]
    assert ClassTrust(**to_json((GOOD,))[0]) == GOOD


def test_every_image_has_the_share_of_its_class():
    shares = settled_of_images((GOOD, BAD, FEW), torch.tensor([1, 0, 2, 1]))
    np.testing.assert_allclose(shares, [0.08, 0.974, np.nan, 0.08], rtol=1e-6)


class OneOfTwo(ProcessGroup):
    """One of two processes, whose gathering returns only its own part."""

    def gather(self, part):
        return [part]


def test_each_process_measures_its_part_of_the_classes(monkeypatch):
    monkeypatch.setattr(trust, "_measure_class", lambda _answer, k, *_: ClassTrust(k, None, None))

    class Answer:
        class_volumes = torch.zeros(5, 2, 2, 2)

    usable = torch.ones(5, dtype=torch.bool)
    parts = [measure_trust(Answer(), usable, AbInitioConfig(), 0, group=OneOfTwo(rank, 2)) for rank in (0, 1)]
    assert [[one.images for one in part] for part in parts] == [[0, 1], [2, 3, 4]]
    assert measure_trust(Answer(), usable, AbInitioConfig(), 0) == parts[0] + parts[1]


def test_unusable_particles_do_not_take_part_in_the_test_of_a_class(toy, monkeypatch):
    seen = []

    class Answer:
        predictions = SimpleNamespace(classes=torch.zeros(N, dtype=torch.long))
        voxel_A = 5.0

        def posed(self, rows, device):
            seen.extend(rows.tolist())
            return toy.data[rows], toy.poses[rows]

        def half_maps(self, rows, seed):
            seen.extend(rows.tolist())
            return toy.volumes[0], toy.volumes[0]

    monkeypatch.setattr(trust, "settled_share", lambda *_: 0.9)
    found = trust._measure_class(Answer(), 0, torch.arange(N) % 2 == 0, AbInitioConfig(), 0, "cpu")
    assert (found.images, found.settled) == (N, 0.9) and sorted(set(seen)) == list(range(0, N, 2))
    assert trust._measure_class(Answer(), 0, torch.arange(N) < 50, AbInitioConfig(), 0, "cpu").settled is None
