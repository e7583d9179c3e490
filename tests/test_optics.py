"""The CTF equals that of RELION and of torch-ctf, and commutes with cropping."""

import pytest
import torch
from torch_ctf import calculate_ctf_2d

from hetacumn.physics.fourier import crop_images, fft2c, ifft2c
from hetacumn.physics.optics import Optics, frequency_grid

BOX, PIXEL_A = 32, 4.0

# The optics of two particles, and the images of a single bright voxel that `relion_project --ctf` (RELION 3.1.3) computed with
# them: RELION holds their Fourier coefficients at K, with the shift removed.
OPTICS = Optics(
    defocus_u_A=torch.tensor([12000.0, 21000.0]),
    defocus_v_A=torch.tensor([10000.0, 18000.0]),
    astigmatism_deg=torch.tensor([25.0, -40.0]),
    voltage_kv=torch.tensor([300.0, 300.0]),
    cs_mm=torch.tensor([2.7, 2.7]),
    amplitude_contrast=torch.tensor([0.1, 0.1]),
    phase_shift_deg=torch.tensor([0.0, 30.0]),
    pixel_A=PIXEL_A,
)
K = torch.tensor([(0, 0), (3, 0), (0, 4), (2, 5), (-6, 3), (7, 7)])
RELION = torch.tensor([
    [0.1000, 0.47559, 0.66347, 0.96626, 0.93695, -0.96353],
    [0.5841, 0.96222, 0.97703, 0.49360, -0.85192, 0.83964],
])  # fmt: skip


def test_ctf_equals_that_of_relion():
    torch.testing.assert_close(OPTICS.ctf(K / BOX), RELION, atol=1e-4, rtol=0)


def test_ctf_is_amplitude_contrast_at_the_origin_and_rises_under_focus():
    ctf = OPTICS[:1].ctf(torch.tensor([[0.0, 0.0], [0.01, 0.0]]))[0]
    torch.testing.assert_close(ctf[0], torch.tensor(0.1))
    assert ctf[1] > ctf[0]


@pytest.mark.parametrize("row", [0, 1])
def test_ctf_agrees_with_torch_ctf(row):
    one = OPTICS[row : row + 1]
    other = calculate_ctf_2d(
        defocus=(one.defocus_u_A + one.defocus_v_A) / 2e4,  # µm
        astigmatism=(one.defocus_u_A - one.defocus_v_A) / 2e4,
        astigmatism_angle=one.astigmatism_deg,
        voltage=one.voltage_kv,
        spherical_aberration=one.cs_mm,
        amplitude_contrast=one.amplitude_contrast,
        phase_shift=one.phase_shift_deg,
        pixel_size=PIXEL_A,
        image_shape=(BOX, BOX),
        rfft=False,
        fftshift=True,
    )
    ours = one.ctf(frequency_grid(BOX)).view(BOX, BOX)
    torch.testing.assert_close(ours, other.view(BOX, BOX), atol=1e-3, rtol=0)


def test_defocus_u_is_along_its_angle():
    frequency = 0.1 * torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    along_x = Optics(**{**vars(OPTICS[:1]), "astigmatism_deg": torch.zeros(1)})
    round_u = Optics(**{**vars(along_x), "defocus_v_A": along_x.defocus_u_A})
    round_v = Optics(**{**vars(along_x), "defocus_u_A": along_x.defocus_v_A})
    torch.testing.assert_close(along_x.ctf(frequency)[0, 0], round_u.ctf(frequency)[0, 0])
    torch.testing.assert_close(along_x.ctf(frequency)[0, 1], round_v.ctf(frequency)[0, 1])


def apply_ctf(images, optics):
    box = images.shape[-1]
    return ifft2c(fft2c(images) * optics.ctf(frequency_grid(box)).view(-1, box, box))


def test_cropping_and_filtering_commute():
    images = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    fine = Optics(**{**vars(OPTICS), "pixel_A": PIXEL_A / 2})
    one_way = crop_images(apply_ctf(images, fine), BOX)
    other_way = apply_ctf(crop_images(images, BOX), OPTICS)
    torch.testing.assert_close(one_way, other_way, atol=1e-5, rtol=0)


def test_a_bright_protein_stays_bright_under_focus():
    image = torch.zeros(2, BOX, BOX)
    image[:, BOX // 2, BOX // 2] = 1
    assert (apply_ctf(image, OPTICS)[:, BOX // 2, BOX // 2] > 0).all()
