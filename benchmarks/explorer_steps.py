"""Milliseconds from a step of a slider of the explorer to the new picture.

  python -m vae_jax.explorer --workdir=runs/vae   # elsewhere
  python -m benchmarks.explorer_steps http://127.0.0.1:7860 --steps=60

Chromium without a screen (with chromedriver, and selenium) opens the page and moves its
first slider, each step once the picture of the one before is drawn.
"""

import argparse
import importlib
import json
import shutil

import numpy as np

STEP = """
const [steps, done] = arguments, times = [];
const slider = () => document.querySelector(".sliders input");
// It comes with the picture, which need not differ from the one before.
const command = () => document.querySelector("#command textarea").value;
const step = (number) => {
  if (number === steps) return done(times);
  const before = command(), begun = performance.now();
  slider().value = slider().min * (1 - (2 * ((number * 7) % steps) + 1) / steps);
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
// Its value is told once the script of the page has run.
const begin = () =>
  slider()?.parentElement.querySelector("output").textContent
    ? setTimeout(step, 500, 0)
    : setTimeout(begin, 20);
begin();
"""


def measure(address: str, steps: int) -> np.ndarray:
    """Returns the milliseconds of each step.

    Args:
      address: of the page.
      steps: of its first slider.
    """
    webdriver = importlib.import_module("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1366,768")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as browser:
        browser.set_script_timeout(100)
        browser.get(address)
        return np.array(browser.execute_async_script(STEP, steps))


def main() -> None:
    """Prints figures of the steps as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    found = measure(args.address, args.steps)
    median, ninth = np.percentile(found, [50, 90])
    figures = {
        "first_ms": found[0],
        "median_ms": median,
        "p90_ms": ninth,
        "largest_ms": found.max(),
    }
    print(json.dumps({name: round(float(each), 1) for name, each in figures.items()}))


if __name__ == "__main__":
    main()
