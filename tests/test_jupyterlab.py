"""The exploration in a real JupyterLab in a headless Chromium: it opens, runs, and what one does changes what one sees.

Screenshots stay in the folder named by HETACUMN_SCREENSHOTS, if it is set.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
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


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):  # noqa: F811
    """The address of a JupyterLab on 127.0.0.1, with the notebook set to the toy run."""
    here = tmp_path_factory.mktemp("lab")
    notebook = json.loads((REPO / "notebooks/explore.ipynb").read_text())
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            from_the_project = os.path.relpath(folder, REPO)
            cell["source"] = [f"folder, prepared, truth = {from_the_project!r}, '', ''"]
    (here / "explore.ipynb").write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root",
               "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={here}"]  # fmt: skip
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(here / "runtime"), "JUPYTER_CONFIG_DIR": str(here / "config"),
                   "JUPYTERLAB_SETTINGS_DIR": str(here / "settings"), "PYTHONPATH": str(REPO),
                   "PYTHONSTARTUP": str(REPO / "scripts/lab.py")}  # fmt: skip
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (found := list((here / "runtime").glob("jpserver-*.json"))) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield json.loads(found[0].read_text())["url"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def screenshot(browser, name: str) -> np.ndarray:
    content = browser.get_screenshot_as_png()
    if kept := os.environ.get("HETACUMN_SCREENSHOTS"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        (Path(kept) / f"{name}.png").write_bytes(content)
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=float)


def part(picture: np.ndarray, element) -> np.ndarray:
    """What a screenshot shows of an element."""
    box = element.rect
    scroll = element.parent.execute_script("return arguments[0].getBoundingClientRect().top", element)
    top, left = int(max(0, scroll)), int(box["x"])
    return picture[top : top + int(box["height"]), left : left + int(box["width"])]


def test_one_opens_it_selects_and_moves_the_slider(lab, browser):
    wait = WebDriverWait(browser, 120)
    browser.get(f"{lab}lab/tree/explore.ipynb")
    wait.until(lambda b: b.execute_script("return !!(window.jupyterapp && document.querySelector('.jp-Notebook'))"))
    wait.until(lambda b: b.execute_script("return !!window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"))
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".k3d-target canvas, .k3d canvas, canvas"))
    plot = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, ".js-plotly-plot .nsewdrag"))
    time.sleep(5)  # it has scrolled to the last cell by then
    browser.execute_script("arguments[0].closest('.js-plotly-plot').scrollIntoView({block: 'start'})", plot)
    time.sleep(2)
    before = screenshot(browser, "1_opened")
    assert before.std() > 5

    angles = np.linspace(0, 2 * np.pi, 25)
    circle = np.stack([210 * np.cos(angles), 160 * np.sin(angles)], 1).astype(int)  # about nearly all points
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
