"""Fixtures shared by several test modules."""

import os
import shutil
from collections import Counter

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # the workers share the cores; set before torch counts them
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))

import pytest  # noqa: E402
import torch  # noqa: E402
from selenium import webdriver  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first: the quick files then fill the time in which one worker would wait for the other."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: slow[item.path] == 0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """Return each device on which a law must hold: the CPU, and CUDA if available."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def generator(device) -> torch.Generator:
    """Return a seeded generator on the device."""
    return torch.Generator(device).manual_seed(0)


@pytest.fixture(scope="module")
def browser():
    """Return a headless Chromium that logs its network requests; skip the test if Chromium is not installed."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("Chromium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,1500",
                     "--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--no-proxy-server"):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def blobs():
    """Return a molecule of Gaussian blobs, whose volume and projections at any pose have a closed form."""
    return Blobs()


class Blobs:
    """Gaussian blobs (40 by default) without any symmetry; all lengths are fractions of the box."""

    def __init__(self, n: int = 40, width: float = 0.04):
        generator = torch.Generator().manual_seed(1)
        size = torch.tensor([0.07, 0.11, 0.16])
        self.points = (torch.randn(n, 3, generator=generator) * size).clamp(-0.25, 0.25)
        self.width = width

    def _profile(self, coordinate, box, device):
        axis = torch.arange(box, device=device) - box // 2
        distance = axis - coordinate.to(device)[:, None] * box
        return torch.exp(-distance.square() / (2 * (self.width * box) ** 2))

    def moved(self, rotation=None, shift=(0.0, 0.0, 0.0), mirrored=False) -> "Blobs":
        """Return the blobs at ``±R p + t``; the sign is minus if ``mirrored``."""
        other = Blobs.__new__(Blobs)
        other.width = self.width
        rotation = torch.eye(3) if rotation is None else rotation.cpu()
        other.points = (-1 if mirrored else 1) * self.points @ rotation.T + torch.as_tensor(shift)
        return other

    def volume(self, box: int, device="cpu") -> torch.Tensor:
        """Return the density ``(z, y, x)``."""
        x, y, z = (self._profile(c, box, device) for c in self.points.T)
        return torch.einsum("nz,ny,nx->zyx", z, y, x)

    def projection(self, box: int, device="cpu") -> torch.Tensor:
        """Return the integral of the density along z ``(y, x)``, from its closed form."""
        x, y = (self._profile(c, box, device) for c in self.points.T[:2])
        return torch.einsum("ny,nx->yx", y, x) * self.width * box * (2 * torch.pi) ** 0.5
