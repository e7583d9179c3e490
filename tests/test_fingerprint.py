"""A fingerprint matches its own stack, also after rounding and from a file, and no other stack."""

import json
from dataclasses import replace

import pytest
import torch
from toys import hinged, make_toy

from hetacumn.common.errors import HetacumnError
from hetacumn.particles.observations import StackFingerprint


@pytest.fixture(scope="module")
def data(blobs):
    return make_toy([hinged(blobs, 0), hinged(blobs, 80)], 20, 16, snr=0.5).data


def test_powers_are_the_mean_squares_of_the_coefficients(data):
    found = StackFingerprint.of(data)
    assert found.particles == 20
    for value, part in (
        (found.power, data.y),
        (found.power_first, data.y[0]),
        (found.power_last, data.y[-1]),
        (found.power_ctf, data.ctf),
    ):
        assert value == pytest.approx(float(part.abs().double().square().mean()), abs=1e-6)


def test_a_fingerprint_tolerates_rounding_and_nothing_else(data):
    found = StackFingerprint.of(data)
    assert StackFingerprint.of(replace(data, y=data.y * (1 + 1e-6))).matches(found)
    others = (data[:19], data[torch.arange(20).flip(0)], replace(data, y=1.001 * data.y), replace(data, ctf=0.999 * data.ctf))
    for other in others:
        assert not StackFingerprint.of(other).matches(found) and not found.matches(StackFingerprint.of(other))


def test_a_fingerprint_survives_json(data, tmp_path):
    found = StackFingerprint.of(data)
    assert StackFingerprint.from_json(json.loads(json.dumps(found.to_json())), tmp_path) == found


@pytest.mark.parametrize("content", [None, "20 particles of power 1.0 (1.0 to 1.0), of CTFs 0.5", {"particles": 20}])
def test_files_of_another_version_are_named(content, tmp_path):
    with pytest.raises(HetacumnError, match="start.safetensors: made by another version"):
        StackFingerprint.from_json(content, tmp_path / "start.safetensors")
