"""Times of rivals that take turns, so that a machine's moods hit all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

# A number that was measured: its `median`, `lowest` and `highest`, and more by name.
Point = dict[str, float]


def step_times(
    train: Callable[[int], float], per_dispatch: int, seconds: float
) -> Point:
    """Returns the milliseconds of a step: `median`, `lowest` and `highest`.

    Args:
      train: trains for a number of steps, and returns when they are done.
      per_dispatch: steps in each call of `train`.
      seconds: seconds to go on for; three dispatches at least.
    """
    train(per_dispatch)
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        train(per_dispatch)
        times.append(1e3 * (time.perf_counter() - start) / per_dispatch)
    return spread(times)


def spread(values: Sequence[float]) -> Point:
    """Returns the `median`, the `lowest` and the `highest` of what was measured."""
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
    }


def in_turn(
    rivals: Mapping[str, Callable[[], object]], *, repeats: int
) -> dict[str, list[float]]:
    """Returns the seconds of each call: A B A B, after one of each that is not counted.

    Args:
      rivals: each returns when its work is done, not when it has been asked for.
      repeats: calls of each.
    """
    for rival in rivals.values():
        rival()
    seconds = {name: [] for name in rivals}
    for _ in tqdm(range(repeats), " against ".join(rivals), leave=False, disable=None):
        for name, rival in rivals.items():
            start = time.perf_counter()
            rival()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def durations(seconds: dict[str, list[float]]) -> dict[str, Point]:
    """Returns each rival's seconds: median, lowest and highest; lower is better.

    `ratio` is the median, over the rounds, of this rival's time to the first one's:
    how many times faster the first is; `ratio_lowest` and `ratio_highest` are of single
    rounds.
    """
    first = next(iter(seconds.values()))
    found = {}
    for name, times in seconds.items():
        ratios = [t / base for t, base in zip(times, first, strict=True)]
        found[name] = {
            **spread(times),
            "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
        }
    return found


def rates(seconds: dict[str, list[float]], count: int) -> dict[str, Point]:
    """Returns each rival's rate: median, lowest and highest of count / seconds.

    `ratio` is as of `durations`: how many times faster the first is.
    """
    found: dict[str, Any] = durations(seconds)
    for name, times in seconds.items():
        found[name] |= spread([count / t for t in times])
    return found
