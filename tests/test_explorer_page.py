"""The explorer's page in a browser: what is seen is what the commands make.

The server is a process of its own, as users start it.
"""

import base64
import concurrent.futures
import contextlib
import http.client
import importlib.util
import io
import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vae_jax import run as run_lib
from vae_jax.commands import edits
from vae_jax.data.pictures import read_pictures
from vae_jax.explorer import controls
from vae_jax.explorer.source import first_look, open_source
from vae_jax.report import grids

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
PATIENCE = 60.0
NUM_USERS = 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
    ),
]


def until(found, what):
    """Returns what `found` returns, once that is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    pytest.fail(f"after {PATIENCE:g} seconds: {what}")


@pytest.fixture(scope="module")
def run(small_runs):
    return run_lib.load(small_runs("vae").workdir)


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """The address of the page, served by a process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vae_jax.explorer", f"--workdir={run.workdir}"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, f"--port={port}"],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[1],
        )
    try:
        told = lambda: process.poll() is not None or "Ctrl-C" in log.read_text()  # noqa: E731
        until(told, "no page")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser():
    """Chromium without a screen, by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no Chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1366,768")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        yield driver


@pytest.fixture
def opened(browser, server):
    """The page, opened anew."""
    browser.get(server)
    until(lambda: browser.find_elements("id", "picture"), "no picture")
    # It is empty until the script of the sliders has run.
    told = "return document.querySelector('.sliders output')?.textContent"
    until(lambda: browser.execute_script(told), "no sliders")
    return browser


def pixels(address):
    """Returns the picture in an address that holds it, [H,W,C]."""
    _, _, told = address.partition("base64,")
    levels = np.asarray(Image.open(io.BytesIO(base64.b64decode(told))))
    return levels[..., None] if levels.ndim == 2 else levels


def shown(opened):
    return pixels(opened.find_element("id", "picture").get_attribute("src"))


def command(opened):
    field = opened.find_element("css selector", "#command textarea")
    return field.get_attribute("value")


def after(opened, do):
    """Does something, and waits until the command is another one."""
    before = command(opened)
    do()
    until(lambda: command(opened) != before, f"still {before}")


def drag(opened, name, pixels_right):
    from selenium.webdriver import ActionChains

    slider = opened.find_element("css selector", f"[data-name='{name}']")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    actions = ActionChains(opened, duration=20)
    actions.click_and_hold(slider)
    for _ in range(5):
        actions.move_by_offset(pixels_right // 5, 0)
    after(opened, actions.release().perform)
    value = slider.get_attribute("value")
    until(lambda: f"={float(value):g}" in command(opened), f"no {value}")
    return float(value)


def edited(run, name, value, image):
    found = edits.edit(run, {name: 1.0}, [value], pictures=image)
    return grids.to_levels(found.images[0, 1])


def test_a_dragged_slider_shows_what_edit_draws_and_undo_goes_back(opened, run):
    image = run.dataset.splits["test"].images[:1]
    at_first = shown(opened)
    np.testing.assert_array_equal(at_first, edited(run, "Smiling", 0.0, image))
    value = drag(opened, "attribute Smiling", 40)
    assert 0 < value <= controls.REACH
    np.testing.assert_array_equal(shown(opened), edited(run, "Smiling", value, image))
    after(opened, opened.find_element("id", "undo").click)
    np.testing.assert_array_equal(shown(opened), at_first)
    slider = opened.find_element("css selector", "[data-name='attribute Smiling']")
    until(lambda: slider.get_attribute("value") == "0", "the slider stays")


def test_a_picture_that_is_sent_is_edited_and_downloaded(opened, run, tmp_path):
    path = tmp_path / "me & you.png"
    levels = np.random.default_rng(3).integers(0, 256, (50, 40, 3), np.uint8)
    Image.fromarray(levels).save(path)
    field = "#file input[type=file]"

    def send(file):
        opened.find_element("css selector", field).send_keys(str(file))

    after(opened, lambda: send(path))
    assert "picture=me & you.png" in shlex.split(command(opened))[4]
    value = drag(opened, "attribute Bangs", -30)
    image = read_pictures([path], run.recipe)
    np.testing.assert_array_equal(shown(opened), edited(run, "Bangs", value, image))
    link = opened.find_element("css selector", "a.download")
    assert link.get_attribute("download") == "face.png"
    np.testing.assert_array_equal(pixels(link.get_attribute("href")), shown(opened))

    (tmp_path / "broken.png").write_bytes(b"no picture")
    until(lambda: opened.find_elements("css selector", field), "no room for a picture")
    send(tmp_path / "broken.png")
    told = opened.find_element("id", "told")
    until(lambda: "broken.png is no picture" in told.text, "nothing is told")
    np.testing.assert_array_equal(shown(opened), edited(run, "Bangs", value, image))


def test_a_second_face_has_a_slider_and_reset_takes_it_away(opened, run):
    goal = opened.find_element("css selector", ".goal")
    assert not goal.is_displayed()
    opened.find_elements("css selector", "#which input")[1].click()
    after(opened, opened.find_element("id", "next_test").click)
    until(goal.is_displayed, "no slider")
    assert "--toward=test=1 --share=0.5" in command(opened)
    after(opened, opened.find_element("id", "reset").click)
    until(lambda: not goal.is_displayed(), "the slider stays")


def test_the_first_screen_holds_the_page_and_nothing_is_asked_of_others(opened, server):
    told = "return [document.documentElement.scrollHeight, innerHeight]"
    height, seen = opened.execute_script(told)
    assert height <= seen
    events = [
        json.loads(e["message"])["message"] for e in opened.get_log("performance")
    ]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    asked = [each for each in asked if not each.startswith(("data:", "blob:"))]
    assert asked and all(each.startswith(server) for each in asked)
    with urllib.request.urlopen(server) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_twenty_users_at_once_have_their_own_pictures(server, run):
    with urllib.request.urlopen(f"{server}/config") as answer:
        known = json.load(answer)["dependencies"]
    (step,) = (each["id"] for each in known if each["api_name"] == "step")
    address = server.removeprefix("http://")
    source = open_source(run.workdir)
    begun = first_look(source)

    def use(number):
        """Returns the values and the answers of one user."""
        found = []
        with contextlib.closing(http.client.HTTPConnection(address)) as connection:
            for turn in range(5):
                values = {
                    "attribute Smiling": (number - turn) / 10,
                    f"dimension {controls.leading(source)[0]}": number / 10,
                    "estimator": begun.estimator,
                    "sampler": begun.sampler,
                }
                sent = {
                    "data": [None, json.dumps(values)],
                    "fn_index": step,
                    "session_hash": f"user{number}",
                }
                connection.request(
                    "POST",
                    "/gradio_api/run/predict",
                    json.dumps(sent),
                    {"Content-Type": "application/json"},
                )
                found.append((values, json.load(connection.getresponse())["data"]))
        return found

    with concurrent.futures.ThreadPoolExecutor(NUM_USERS) as users:
        for found in users.map(use, range(NUM_USERS)):
            for values, (_, page, told, _) in found:
                look = controls.to_look(source, begun, json.dumps(values))
                assert told == look.command(source.opened)
                address_of_picture = page.split('src="')[1].split('"')[0]
                np.testing.assert_array_equal(
                    pixels(address_of_picture), source.picture(look)
                )
