"""Each departure from the simple image model has the size that its setting states, and is off by default."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hetacumn.common.errors import HetacumnError
from hetacumn.physics.fourier import fft2c
from hetacumn.physics.optics import Optics, frequency_grid
from hetacumn.physics.rotations import random_rotations
from hetacumn.simulation.imaging import JUNK, Noise, add_neighbours, form_images, replace_by_junk, vary_contrast
from hetacumn.simulation.sampling import misreport_defocus, prefer_views
from hetacumn.simulation.settings import Realism, Simulation
from hetacumn.simulation.simulate import simulate_stack
from hetacumn.simulation.truth import Truth

DATA = Path(__file__).resolve().parents[1] / "data"
BOX, PIXEL_A = 64, 3.0
SETTINGS = Simulation({}, box=BOX, pixel_A=PIXEL_A)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def optics(n: int, defocus_A: float = 12_000.0) -> Optics:
    values = dict(defocus_u_A=defocus_A, defocus_v_A=defocus_A, astigmatism_deg=0.0, voltage_kv=300.0, cs_mm=2.7,
                  amplitude_contrast=0.1, phase_shift_deg=0.0)  # fmt: skip
    return Optics(**{name: torch.full((n,), value) for name, value in values.items()}, pixel_A=PIXEL_A)


def test_the_envelope_multiplies_the_spectrum():
    images, still = torch.randn(4, BOX, BOX), torch.zeros(4, 2)
    plain, damped = (fft2c(form_images(images, optics(4), still, b)).flatten(1) for b in (0.0, 120.0))
    k = (frequency_grid(BOX) / PIXEL_A).norm(dim=1)
    inside = frequency_grid(BOX).abs().max(1).values < 0.5  # at Nyquist a real transform keeps the real part alone
    expected = plain * torch.exp(-30.0 * k.square())
    torch.testing.assert_close(damped[:, inside], expected[:, inside], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_noise_has_unit_variance_and_its_ice_part_the_spectrum_of_the_ctf(share, draw):
    noise = Noise(replace(SETTINGS, realism=Realism(ice_share=share)), draw).sample(optics(400))
    assert noise.var() == pytest.approx(1, abs=0.01)
    power = fft2c(torch.from_numpy(noise).float()).abs().square().mean(0).flatten()
    ctf = optics(1).ctf(frequency_grid(BOX))[0].square()
    inside = frequency_grid(BOX).abs().max(1).values < 0.5
    expected = (share * ctf / ctf.mean() + 1 - share)[inside]
    assert torch.corrcoef(torch.stack([power[inside] - (1 - share), expected]))[0, 1] > 0.9 or share == 0
    assert (power[inside].mean() / expected.mean()).item() == pytest.approx(1, abs=0.02)


def test_the_stated_share_of_views_is_near_the_preferred_directions(draw):
    rotations = random_rotations(6000, torch.Generator().manual_seed(0))
    realism = Realism(preferred_share=0.6, preferred_views=1, view_spread_deg=8.0)
    found = prefer_views(rotations, realism, draw)
    moved = (found - rotations).abs().amax((1, 2)) > 0
    assert moved.float().mean().item() == pytest.approx(0.6, abs=0.02)
    directions = found[moved][:, 2]  # view z in the frame of the object
    middle = torch.nn.functional.normalize(directions.mean(0), dim=0)
    assert torch.rad2deg(torch.acos((directions @ middle).clamp(-1, 1))).median() < 15
    psi = torch.atan2(found[moved][:, 0, 0], found[moved][:, 1, 0])
    assert torch.stack([psi.cos().mean(), psi.sin().mean()]).norm() < 0.1


def test_contrast_varies_about_one(draw):
    factors = vary_contrast(torch.ones(20_000, 1, 1), 0.15, draw).flatten()
    assert (factors.mean().item(), factors.std().item()) == (pytest.approx(1, abs=0.01), pytest.approx(0.15, abs=0.01))


def test_the_stated_defocus_misses_the_true_one(draw):
    error = misreport_defocus(optics(20_000), 150.0, draw)
    assert (error.defocus_u_A - 12_000).std().item() == pytest.approx(150, rel=0.05)
    torch.testing.assert_close(error.defocus_u_A, error.defocus_v_A)


def test_neighbours_lie_off_the_middle_and_are_as_many_as_stated(draw):
    spots = torch.zeros(2000, BOX, BOX)
    axis = (torch.arange(BOX) - BOX // 2).square()
    spots[:] = torch.exp(-(axis[:, None] + axis) / 8.0)
    still = torch.zeros(2000, BOX, BOX)
    seen = add_neighbours(still, spots, optics(2000), Realism(neighbours=1.0), draw)
    none = seen.flatten(1).abs().amax(1) == 0
    assert none.float().mean().item() == pytest.approx(np.exp(-1), abs=0.03)
    inner = slice(BOX // 2 - 8, BOX // 2 + 8)
    assert seen[:, inner, inner].square().mean() < 0.02 * seen.square().mean()
    unchanged = add_neighbours(still, spots, optics(2000), Realism(neighbours=1e-9), draw)
    assert not unchanged.any()


def test_junk_replaces_only_the_rows_of_its_kinds(draw):
    images = torch.randn(8, BOX, BOX)
    kinds = torch.tensor([0, 1, 2, 3, 0, 0, 0, 0])
    found = replace_by_junk(images, kinds, optics(8), 0.0, draw)
    torch.testing.assert_close(found[kinds == 0], images[kinds == 0])
    assert not found[1].any()
    torch.testing.assert_close(
        found[2:4].std((1, 2)), torch.full((2,), 2 * images.std((1, 2)).mean().item()), rtol=0.01, atol=0
    )


@pytest.mark.skipif(not (DATA / "adk.npz").exists(), reason="data/ is absent: run `dvc pull`")
def test_a_stack_with_every_departure_states_its_junk_and_keeps_its_snr(tmp_path):
    realism = {"envelope_A2": 100, "ice_share": 0.5, "preferred_share": 0.5, "contrast_sd": 0.15, "defocus_error_A": 150,
               "neighbours": 0.5, "junk_share": 0.1, "shift_sd_px": 2.0}  # fmt: skip
    settings = {"structure": "adk", "states": ["open", "closed"], "particles": 600, "box": 48, "pixel_A": 2.2, "snr": 0.5,
                "noise": "coloured", "realism": realism}  # fmt: skip
    truth = simulate_stack(Simulation.from_params(settings), tmp_path, 0, DATA, progress=False)
    assert (truth.junk > 0).float().mean().item() == pytest.approx(0.1, abs=0.04)
    assert set(truth.junk.tolist()) == set(range(len(JUNK)))
    assert (truth.shifts_A / 2.2).std().item() == pytest.approx(2, rel=0.1)
    torch.testing.assert_close(Truth.read(tmp_path / "truth.npz").junk, truth.junk)


def test_a_truth_of_an_earlier_version_has_no_junk(tmp_path):
    arrays = dict(rotations=np.zeros((3, 3, 3)), shifts_A=np.zeros((3, 2)), classes=np.zeros(3, int),
                  coordinate=np.zeros(3), clean=np.zeros((0, 8, 8)), snr=0.1, noise_std=1.0)  # fmt: skip
    np.savez(tmp_path / "truth.npz", **arrays)
    assert not Truth.read(tmp_path / "truth.npz").junk.any()


def test_every_departure_is_off_by_default_and_checked():
    off = {"envelope_A2", "ice_share", "preferred_share", "contrast_sd", "defocus_error_A", "neighbours", "junk_share",
           "shift_sd_px"}  # fmt: skip
    assert {f.name for f in fields(Realism) if getattr(Realism(), f.name) == 0} == off
    for name, value in {"ice_share": 1.5, "junk_share": 1.0, "neighbours": -1, "preferred_views": 0}.items():
        with pytest.raises(HetacumnError, match=name):
            Realism(**{name: value})
