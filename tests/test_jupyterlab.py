"""Exploration in a real JupyterLab with a headless Chromium: the notebook opens, runs and follows the user's actions.

The tests write screenshots into the folder HETACUMN_SCREENSHOTS if this variable is set.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from jupyter_client import BlockingKernelClient
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_explore import REPO, folder  # noqa: F401 (a fixture)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REPO / "data/adk.npz").exists(), reason="data/ is absent: run `dvc pull`"),
]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, the project's folder, and the folder of its connection files."""

    url: str
    project: Path
    runtime: Path

    def listed(self, path: str) -> set[str]:
        """Return the names that the file browser shows in a folder."""
        with urllib.request.urlopen(f"{self.url}api/contents/{path}") as answer:
            return {entry["name"] for entry in json.load(answer)["content"]}


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):  # noqa: F811
    """Start the JupyterLab of ``make lab`` on 127.0.0.1, in a project whose results/ contains the toy run."""
    project, own = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("jupyter")
    for name in ("notebooks", "scripts", "results"):
        (project / name).mkdir()
    shutil.copy(REPO / "scripts/lab.py", project / "scripts/lab.py")
    (project / "results/toy").symlink_to(folder, target_is_directory=True)
    notebook = json.loads((REPO / "notebooks/explore.ipynb").read_text())
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = ["folder, prepared, truth = 'results/toy', '', ''"]
    (project / "notebooks/explore.ipynb").write_text(json.dumps(notebook))
    options = ("--no-browser --ip=127.0.0.1 --port=0 --allow-root --IdentityProvider.token= "
               "--ServerApp.disable_check_xsrf=True --LabApp.expose_app_in_browser=True")  # fmt: skip
    command = ["make", "-C", str(project), "-f", str(REPO / "Makefile"), "-o", "data", "lab",
               f"BIN={Path(sys.executable).parent}", f"LAB_ARGS={options}"]  # fmt: skip
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(own / "runtime"), "JUPYTER_CONFIG_DIR": str(own / "config"),
                   "JUPYTERLAB_SETTINGS_DIR": str(own / "settings")}  # fmt: skip
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True)  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (found := list((own / "runtime").glob("jpserver-*.json"))) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield Lab(json.loads(found[0].read_text())["url"], project, own / "runtime")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_the_file_browser_shows_the_project_with_its_results(lab):
    assert {"notebooks", "results"} <= lab.listed("")
    assert {"predictions.star", "latents.csv", "volumes"} <= lab.listed("results/toy")
    assert "explore.ipynb" in lab.listed("notebooks")


def test_the_kernel_of_a_notebook_starts_in_the_project_folder(lab):
    session = {"path": "notebooks/explore.ipynb", "type": "notebook", "name": "", "kernel": {"name": "python3"}}
    with urllib.request.urlopen(f"{lab.url}api/sessions", json.dumps(session).encode()) as answer:
        started = json.load(answer)
    client = BlockingKernelClient(connection_file=str(lab.runtime / f"kernel-{started['kernel']['id']}.json"))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(60)
        reply = client.execute_interactive("", user_expressions={"here": "__import__('os').getcwd()"}, timeout=60)
        here = reply["content"]["user_expressions"]["here"]["data"]["text/plain"]
    finally:
        client.stop_channels()
        urllib.request.urlopen(urllib.request.Request(f"{lab.url}api/sessions/{started['id']}", method="DELETE"))
    assert Path(here.strip("'")) == lab.project


def screenshot(browser, name: str) -> np.ndarray:
    content = browser.get_screenshot_as_png()
    if kept := os.environ.get("HETACUMN_SCREENSHOTS"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        (Path(kept) / f"{name}.png").write_bytes(content)
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=float)


def part(image: np.ndarray, element) -> np.ndarray:
    """Return the part of a screenshot that shows an element."""
    box = element.rect
    scroll = element.parent.execute_script("return arguments[0].getBoundingClientRect().top", element)
    top, left = int(max(0, scroll)), int(box["x"])
    return image[top : top + int(box["height"]), left : left + int(box["width"])]


def test_the_notebook_runs_and_follows_the_lasso_and_the_slider(lab, browser):
    wait = WebDriverWait(browser, 120)
    browser.get(f"{lab.url}lab/tree/notebooks/explore.ipynb")
    wait.until(lambda b: b.execute_script("return !!(window.jupyterapp && document.querySelector('.jp-Notebook'))"))
    wait.until(lambda b: b.execute_script("return !!window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"))
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".k3d-target canvas, .k3d canvas, canvas"))
    plot = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, ".js-plotly-plot .nsewdrag"))
    time.sleep(5)  # the page has then scrolled to the last cell
    browser.execute_script("arguments[0].closest('.js-plotly-plot').scrollIntoView({block: 'start'})", plot)
    time.sleep(2)
    before = screenshot(browser, "1_opened")
    assert before.std() > 5

    angles = np.linspace(0, 2 * np.pi, 25)
    circle = np.stack([170 * np.cos(angles), 130 * np.sin(angles)], 1).astype(int)  # around nearly all points
    drag = ActionChains(browser, duration=50).move_to_element_with_offset(plot, *circle[0].tolist()).click_and_hold()
    for step in np.diff(circle, axis=0).tolist():
        drag = drag.move_by_offset(*step)
    drag.release().perform()
    time.sleep(5)
    screenshot(browser, "2_selected")
    wait.until(lambda b: "particles:" in b.find_element(By.CSS_SELECTOR, ".jp-Notebook").text)

    handle = browser.find_element(By.CSS_SELECTOR, ".widget-slider .noUi-handle")
    browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", handle)
    time.sleep(2)
    surface = browser.find_elements(By.CSS_SELECTOR, ".k3d-target canvas, .k3d canvas, canvas")[-2]
    still = part(screenshot(browser, "3_still"), surface)
    assert still.std() > 2
    handle.send_keys(Keys.END)
    wait.until(lambda b: "1.00" in b.find_element(By.CSS_SELECTOR, ".widget-slider .widget-readout, .widget-readout").text)
    time.sleep(4)
    moved = part(screenshot(browser, "4_moved"), surface)
    assert np.abs(moved - still).mean() > 1, "the surface does not follow the slider"
