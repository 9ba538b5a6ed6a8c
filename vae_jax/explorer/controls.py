"""The sliders of the page: their markup, and their values from a look and to one.

They are one element for gradio, whose value is JSON text: sliders of its own would each
take their time at every step of one of them. page.js reads and writes it.
"""

import dataclasses
import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vae_jax.errors import UserError
from vae_jax.explorer.looks import Look
from vae_jax.explorer.source import Source

# Bounds of attributes and dimensions to either side, and of a temperature.
REACH, HOTTEST = 3.0, 2.0
NUM_DIMENSIONS = 10
# Fraction digits of a value, so that the command tells it exactly.
DIGITS = 3
# The choice of how far down a way changes codes where it changes all.
ALL_CODES = "all"
# What gradio would take for a part of a template.
_TEMPLATE = {ord(sign): f"&#{ord(sign)};" for sign in "`\\${}"}


def to_text(look: Look | None) -> str:
    """Returns the values of all controls that are not as they begin, as JSON."""
    if look is None:
        return "{}"
    heat = look.temperature
    heat = heat if isinstance(heat, Mapping) else {0: heat}
    parts = {
        "attribute": look.attributes,
        "dimension": look.dimensions,
        "temperature": {at: each for at, each in heat.items() if each != 1},
    }
    values: dict[str, Any] = {
        f"{part} {name}": value
        for part, named in parts.items()
        for name, value in named.items()
    }
    values |= {"estimator": look.estimator, "sampler": look.sampler}
    if look.realism:
        values["realism"] = look.realism
    if look.goal is not None:
        values["share"] = look.share
    if look.up_to is not None:
        values["up_to"] = _square(look.up_to)
    return json.dumps(values)


def to_look(source: Source, before: Look, text: str) -> Look:
    """Returns what a look becomes by the values of all controls.

    Args:
      source: source of the model.
      before: the look whose faces stay.
      text: the values, as `to_text` has them; others than there are controls for are
        passed over.

    Raises:
      UserError: a value is none that a control can have.
    """
    try:
        values = dict(json.loads(text))

        def choice(name: str, known: Mapping[str, Any]) -> str | None:
            value = values.get(name)
            if value not in known and (known or value is not None):
                raise ValueError(f"the {name} is not known")
            return value

        def number(name: str, low: float, high: float, usual: float = 0.0) -> float:
            value = float(values.get(name, usual))
            if not math.isfinite(value):
                raise ValueError("a number is not finite")
            return round(min(max(value, low), high), DIGITS)

        estimator = choice("estimator", source.directions)
        sampler = choice("sampler", source.samplers)
        known = source.directions[estimator] if estimator else {}
        both = (-REACH, REACH)
        named = {name: number(f"attribute {name}", *both) for name in known}
        numbered = {n: number(f"dimension {n}", *both) for n in leading(source)}
        layers = source.resolutions or (0,)
        heats = {n: number(f"temperature {n}", 0, HOTTEST, 1.0) for n in layers}
        share = number("share", 0, 1)
        realism = number("realism", 0, 1) if source.has_dial else 0.0
        places: dict[Any, int | None] = {_square(at): at for at in source.coarse}
        places[ALL_CODES] = None
        values.setdefault("up_to", ALL_CODES)
        up_to = places[choice("up_to", places)]
    # A page sends what its controls have, others send what they want.
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"the page sent values that are none: {error}") from error
    return dataclasses.replace(
        before,
        share=0.0 if before.goal is None else share,
        up_to=None if before.goal is None else up_to,
        attributes={name: value for name, value in named.items() if value},
        dimensions={each: value for each, value in numbered.items() if value},
        temperature=_temperature(heats),
        estimator=estimator,
        sampler=sampler,
        realism=realism,
    )


def _temperature(heats: dict[int, float]) -> float | dict[int, float]:
    if 0 in heats:
        return heats[0]
    changed = {at: each for at, each in heats.items() if each != 1}
    return changed or 1.0


def _square(resolution: int) -> str:
    return f"{resolution}x{resolution}"


def leading(source: Source) -> list[int]:
    """Returns the dimensions that have sliders."""
    return [int(number) for number in source.order[:NUM_DIMENSIONS]]


def markup(source: Source) -> str:
    """Returns the controls of a model, to be filled in by page.js."""
    names = dict.fromkeys(n for known in source.directions.values() for n in known)
    estimators = {
        name: [each for each, known in source.directions.items() if name in known]
        for name in names
    }
    attributes = [
        _slider(f"attribute {name}", name, -REACH, REACH, of=estimators[name])
        for name in names
    ]
    dimensions = [
        _slider(f"dimension {each}", f"dimension {each}", -REACH, REACH)
        for each in leading(source)
    ]
    at = {n: f"temperature at {_square(n)}" for n in source.resolutions}
    at = at or {0: "temperature"}
    heats = [
        _slider(f"temperature {n}", label, 0, HOTTEST, 1) for n, label in at.items()
    ]
    way = _slider("share", "way to the second face", 0, 1, step=0.01)
    if source.coarse:
        choices = [ALL_CODES, *map(_square, source.coarse)]
        way += _choice("up_to", "it changes codes up to", choices)
    parts = [
        f'<div class="goal">{way}</div>',
        '<div class="dial">' + _slider("realism", "realism", 0, 1) + "</div>"
        if source.has_dial
        else "",
        _part(
            "Attributes",
            _choice("estimator", "directions by", [*source.directions]),
            attributes,
        ),
        _part("Leading dimensions", "", dimensions),
    ]
    if source.samplers:
        parts.append(
            _part(
                "Samples", _choice("sampler", "drawn from", [*source.samplers]), heats
            )
        )
    if source.missing:
        lines = "".join(f"<li>{_safe(each)}</li>" for each in source.missing)
        parts.append(
            f"<details><summary>What there is not</summary><ul>{lines}</ul></details>"
        )
    return "".join(parts)


def _part(title: str, choice: str, sliders: list[str]) -> str:
    if not sliders:
        return ""
    return (
        f"<details open><summary>{title}</summary>{choice}"
        f'<div class="sliders">{"".join(sliders)}</div></details>'
    )


def _slider(
    name: str,
    label: str,
    low: float,
    high: float,
    usual: float = 0,
    step: float = 0.05,
    of: Sequence[str] = (),
) -> str:
    """Returns a slider; with `of`, one that is there for these estimators alone."""
    name, label = _safe(name), _safe(label)
    told = f' data-of="{" ".join(of)}"' if of else ""
    return (
        f'<label class="slider"{told}><span title="{label}">{label}</span>'
        "<output></output>"
        f'<input type="range" data-name="{name}" data-usual="{usual:g}" '
        f'aria-label="{label}" min="{low:g}" max="{high:g}" step="{step:g}"></label>'
    )


def _choice(name: str, label: str, values: list[str]) -> str:
    told = "".join(f"<option>{_safe(each)}</option>" for each in values)
    hidden = " hidden" if len(values) < 2 else ""
    usual = _safe(values[0]) if values else ""
    return (
        f'<label class="choice"{hidden}>{label} <select data-name="{name}" '
        f'data-usual="{usual}">{told}</select></label>'
    )


def _safe(text: str) -> str:
    return html.escape(text).translate(_TEMPLATE)
