"""The explorer as a user has it: seconds to the page, milliseconds of a step, memory.

  python -m benchmarks.explorer_steps --steps=60 --workdir=runs/vae

All other flags are the explorer's, which runs as a process of its own. Chromium without
a screen (with chromedriver, and selenium) opens the page and moves its first slider,
each step once the picture of the one before is drawn.
"""

import argparse
import contextlib
import importlib
import json
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
STEP = """
const [steps, done] = arguments, times = [];
const slider = () => document.querySelector(".sliders input");
// It comes with the picture, which need not differ from the one before.
const command = () => document.querySelector("#command textarea").value;
const step = (number) => {
  if (number === steps) return done(times);
  const before = command(), begun = performance.now();
  // By the golden ratio, so that each place is far from the one before.
  slider().value = slider().min * (1 - 2 * (((number + 1) * 0.618034) % 1));
  slider().dispatchEvent(new Event("input", {bubbles: true}));
  const look = () => {
    const {complete} = document.querySelector("#picture");
    if (!complete || command() === before) return setTimeout(look, 1);
    requestAnimationFrame(() => {
      times.push(performance.now() - begun);
      setTimeout(step, 50, number + 1);
    });
  };
  look();
};
setTimeout(step, 500, 0);
"""
# The values of sliders are told once the script of the page has run.
USABLE = "return document.querySelector('.sliders output')?.textContent"
# Seconds that the explorer may take to be there, and to end.
PATIENCE = 120


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    """Yields Chromium without a screen."""
    webdriver = importlib.import_module("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if options.binary_location is None:
        raise SystemExit(f"none of {', '.join(CHROMIUM)} is on the path")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1366,768")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as browser:
        yield browser


@contextlib.contextmanager
def _served(explorer: Sequence[str]) -> Iterator[str]:
    """Yields the address of a page that a process serves, which then ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vae_jax.explorer", f"--port={port}", *explorer]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        else:
            raise SystemExit("".join(said) or "the explorer has ended")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def measure(explorer: Sequence[str], steps: int) -> dict[str, float]:
    """Returns figures of an explorer.

    Args:
      explorer: its flags.
      steps: number of steps that its first slider takes.

    Returns:
      page_s: seconds from the command to a page whose sliders move.
      first_ms, median_ms, p90_ms, largest_ms: milliseconds from a step of the slider to
        the new picture, the first step of the page and quantiles of all.
      peak_mb: the most memory that the server held, megabytes of 10^6 bytes.
    """
    with _browser() as browser:
        begun = time.perf_counter()
        with _served(explorer) as address:
            browser.get(address)
            while not browser.execute_script(USABLE):
                if time.perf_counter() - begun > PATIENCE:
                    raise SystemExit(f"{address} has no sliders")
                time.sleep(0.02)
            page_s = time.perf_counter() - begun
            browser.set_script_timeout(PATIENCE + steps)
            found = np.array(browser.execute_async_script(STEP, steps))
        # The peak is of children that have ended, which the browser has not.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    median, ninth = np.percentile(found, [50, 90])
    return {
        "page_s": page_s,
        "first_ms": found[0],
        "median_ms": median,
        "p90_ms": ninth,
        "largest_ms": found.max(),
        "peak_mb": peak * 1024 / 1e6,
    }


def main() -> None:
    """Prints figures of an explorer as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=60, help="Steps of the slider; 60."
    )
    args, explorer = parser.parse_known_args()
    figures = measure(explorer, args.steps)
    print(json.dumps({name: round(float(each), 1) for name, each in figures.items()}))


if __name__ == "__main__":
    main()
