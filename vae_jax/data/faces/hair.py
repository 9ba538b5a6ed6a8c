"""Hair, beard and hat of a drawn face."""

import dataclasses
import math

import numpy as np

from vae_jax.data.faces.factors import (
    BALD_BELOW,
    BEARD_FROM,
    GRAY_FROM,
    HAT_FROM,
    MUSTACHE_FROM,
    Factors,
    past,
)
from vae_jax.data.faces.geometry import (
    CROWN_V,
    EYE_DEPTH,
    MOUTH_DEPTH,
    MOUTH_V,
    TEMPLE_V,
    Array,
    Head,
    blend,
    distance_to,
    hue_colour,
    inside,
    linear,
    nose_tip,
    paint,
    spot,
    step,
)

HAIR = np.stack(
    [
        linear(26, 21, 21),
        linear(46, 32, 26),
        linear(86, 56, 38),
        linear(134, 92, 58),
        linear(184, 147, 102),
        linear(226, 198, 150),
    ]
)
RED_HAIR = linear(150, 68, 34)
GRAY_HAIR = linear(176, 176, 180)


def _strand_table(size: int = 2048) -> Array:
    """Smooth noise about 0 along a line, the same for every picture."""
    rng = np.random.default_rng(7)
    place = np.linspace(0.0, 1.0, size)
    table = np.zeros(size)
    for knots, height in ((25, 0.5), (70, 0.6), (180, 0.5)):
        table += height * np.interp(
            place, np.linspace(0.0, 1.0, knots), rng.uniform(-1.0, 1.0, knots)
        )
    return table.astype(np.float32)


_STRANDS = _strand_table()


def hair_colour(factors: Factors) -> Array:
    """The hair's colour, linear [3, 1, 1]."""
    f = factors
    colour = blend(HAIR, f.hair_tone)
    # Red shows in the middle tones; black hair and the palest blond hide it.
    red = 0.7 * f.hair_red**4 * math.sin(math.pi * (0.15 + 0.7 * f.hair_tone))
    colour = colour + red * (RED_HAIR - colour)
    gray = min(1.0, 0.35 + 4.0 * past(f.hair_gray, GRAY_FROM))
    return colour + gray * (f.hair_gray > GRAY_FROM) * (GRAY_HAIR - colour)


def body_hair_colour(factors: Factors, skin: Array) -> Array:
    """The colour of brows and beard: darker than hair and than the skin."""
    return 0.55 * hair_colour(factors) * (0.35 + 0.65 * skin) + linear(14, 10, 9)


def _length(factors: Factors) -> float:
    """How far down (v) the hair at the sides reaches."""
    return 6.0 + 112.0 * past(factors.hair_length, 0.25) ** 0.8


def _turned(head: Head) -> float:
    """How far turning takes the head's axis to the left of the eyes."""
    return EYE_DEPTH * math.sin(math.radians(head.factors.yaw))


def _outline(head: Head) -> tuple[Array, Array]:
    """Signed distance of the hair's outline, and place across it in -1..1."""
    f = head.factors
    grown = float(step(f.hair_length, 0.0, 0.4))
    thick = (2.5 + 10.0 * f.hair_volume) * (0.35 + 0.65 * grown)
    if f.hat > HAT_FROM:
        thick = min(thick, 5.0)
    v = head.v
    flare = 6.0 * f.hair_volume * step(v, 0.0, 60.0) - 5.0 * step(v, 60.0, 120.0)
    wave = 2.2 * past(f.hair_wave, 0.3) * np.sin(0.16 * v + 0.6) * step(v, -20.0, 25.0)
    half = head.width + thick * 0.8 + flare + wave
    # Long hair rests on shoulders that do not turn.
    middle = _turned(head) * (1.0 - 0.25 * step(v, 10.0, 60.0))
    across = (head.u + middle) / half
    crown = CROWN_V - thick
    above = np.maximum((v - TEMPLE_V) / (crown - TEMPLE_V), 0.0)
    return distance_to(across * across + np.power(above, 2.4)), across


def _strands(across: Array, frequency: float) -> Array:
    """Strand noise for a place across the hair in about -1..1."""
    size = len(_STRANDS)
    index = ((0.5 + frequency * across) * size).astype(np.int32)
    return _STRANDS[np.clip(index, 0, size - 1)]


def _lit_hair(head: Head, across: Array) -> Array:
    """Hair as it looks under the light, [3, H, W]."""
    f = head.factors
    v = head.v
    high = np.clip((v - TEMPLE_V) / (CROWN_V - 8.0 - TEMPLE_V), 0.0, 1.0)
    # Strands fan out of the parting at the crown and hang down at the sides.
    parting = 0.3 * f.hair_part * high
    fan = (across - parting) / np.sqrt(1.1 - 0.8 * high * high)
    ripple = 0.05 * past(f.hair_wave, 0.25) * np.sin(0.17 * v + 9.0 * fan)
    strand = _strands(fan + ripple * (1.0 - 0.6 * high), 0.26)
    strand = strand * (1.0 - 0.5 * high**4)
    side = np.clip(across, -1.0, 1.0)
    out = np.sqrt(np.clip(1.0 - side * side - 0.55 * high * high, 0.04, 1.0))
    facing = side * head.light[0] - 0.75 * high * head.light[1] + out * head.light[2]
    key = 0.35 + 0.5 * f.light_strength
    lit = (1.0 - key) * 0.75 + 1.05 * key * np.clip(0.25 + 0.75 * facing, 0.0, 1.2)
    curl = 5.0 * np.sin(6.0 * fan)
    band = np.exp(-0.5 * np.square((v + 46.0 - 30.0 * across * across + curl) / 9.0))
    lower = np.exp(-0.5 * np.square((v - 28.0 + curl) / 16.0))
    shine = (band + 0.4 * lower) * np.clip(0.45 + 0.6 * strand, 0.0, 1.0)
    colour = hair_colour(f)
    body = colour * (lit * (1.0 + 0.42 * strand))
    return body + (0.02 + 0.5 * colour) * (
        0.9 * key * shine * np.clip(facing, 0.0, 1.0)
    )


@dataclasses.dataclass(frozen=True)
class Hair:
    """Combed hair: the part of the head it lies in and how it looks there."""

    window: tuple[slice, slice]
    head: Head
    within: Array  # coverage by the outline [h, w]
    across: Array  # place across the outline, -1..1 [h, w]
    colour: Array  # lit, [3, h, w]


def comb(head: Head) -> Hair | None:
    """The hair that is drawn behind and before the face; None on a bald head."""
    f = head.factors
    if f.hair_length < BALD_BELOW:
        return None
    end = _length(f) + 12.0
    middle, tall = 0.5 * (end + CROWN_V - 16.0), 0.5 * (end - CROWN_V + 16.0)
    window = head.window(-_turned(head), middle, head.width + 24.0, tall)
    head = head.cut(window)
    distance, across = _outline(head)
    return Hair(window, head, inside(distance, 2.2), across, _lit_hair(head, across))


def hair_behind(picture: Array, hair: Hair | None) -> None:
    """The hair that hangs behind the neck."""
    if hair is None or _length(hair.head.factors) < 14.0:
        return
    across = hair.across
    end = _length(hair.head.factors) + 5.0 * _strands(across, 0.4) - 8.0 * across**2
    cover = hair.within * inside(hair.head.v - end, 5.0)
    part = picture[:, hair.window[0], hair.window[1]]
    paint(part, cover, hair.colour * (0.3 + 0.25 * across * across))


def hair_front(picture: Array, hair: Hair | None) -> None:
    """The hair on top and at the sides, open where the face shows."""
    if hair is None:
        return
    head, across = hair.head, hair.across
    f = head.factors
    part = picture[:, hair.window[0], hair.window[1]]
    u, v = head.u - 0.5 * head.axis, head.v
    strand = _strands(across, 0.55)
    grown = float(step(f.hair_length, 0.1, 0.4))
    # The hairline, lower where it sweeps away from the parting and with bangs.
    swept = np.tanh((across - 0.35 * f.hair_part) * (3.0 if f.hair_part < 0 else -3.0))
    bangs = past(f.fringe, 0.45) * grown
    line = -45.0 + 5.0 * grown * swept + 27.0 * bangs * (0.85 + 0.15 * swept)
    line = line + 3.0 * strand * (0.3 + bangs)
    long = float(step(_length(f), 10.0, 45.0))
    open_half = head.width * (0.97 - 0.12 * long) + 9.0 * long * step(v, 10.0, 75.0)
    open_half = open_half - 3.0 * long * f.hair_volume
    top = np.clip((v - 4.0) / (line - 4.0), 0.0, 2.0)
    # Bangs hang as a straight edge, a bare forehead is round.
    corners = 2.4 + 3.0 * bangs
    gap = distance_to(np.power(np.abs(u) / open_half, corners) + np.power(top, corners))
    end = _length(f) + 6.0 * strand - 6.0 * np.abs(across)
    here = hair.within * inside(v - end, 6.0)
    shadow = inside(-gap - 3.0, 8.0) * here
    paint(part, 0.4 * shadow, part * 0.35)
    cropped = 0.75 + 0.25 * float(step(f.hair_length, 0.05, 0.25))
    cover = here * inside(-gap, 2.0 + 3.0 * (1.0 - grown))
    paint(part, cropped * cover, hair.colour)


def beard(albedo: Array, head: Head, skin: Array) -> None:
    """Beard and mustache, if past their thresholds."""
    f = head.factors
    growth, mustache = past(f.beard, BEARD_FROM), past(f.mustache, MUSTACHE_FROM)
    if not growth and not mustache:
        return
    u, v = head.u, head.v
    mouth_u, mouth_v, _ = head.place(0.0, MOUTH_V, MOUTH_DEPTH)
    grain = 1.0 + 0.05 * np.sin(1.3 * u + 0.5 * v) * np.sin(1.1 * v - 0.4 * u)
    colour = 1.2 * body_hair_colour(f, skin)
    cover = np.zeros_like(u)
    if growth:
        chin = spot(u - mouth_u, v - head.chin + 8.0, 10.0, 8.0)
        chin = step(chin, 0.1, 0.75)
        cheek_line = 12.0 + 22.0 * step(np.abs(u - 0.4 * head.axis), 40.0, 18.0)
        jaw = step(v, cheek_line, cheek_line + 13.0)
        bare = spot(u - mouth_u, v - mouth_v + 12.0, 17.0, 11.0)
        jaw = jaw * (1.0 - bare) * step(growth, 0.2, 0.55)
        cover = np.maximum(chin, jaw) * (0.6 + 0.35 * growth)
    if mustache:
        tip_u, tip_v = nose_tip(head)
        x = u - 0.5 * (mouth_u + tip_u)
        lift = v - (tip_v + 10.5) - 0.012 * x * x
        hairs = inside(np.abs(x) - 16.0, 7.0) * inside(
            np.abs(lift) - 2.2 - 1.2 * mustache, 3.0
        )
        cover = np.maximum(cover, (0.7 + 0.25 * mustache) * hairs)
    paint(albedo, np.clip(cover, 0.0, 0.92), colour * grain)


def hat(picture: Array, head: Head) -> None:
    """A knitted hat with a folded band, if there is one."""
    f = head.factors
    if f.hat <= HAT_FROM:
        return
    low = past(f.hat, HAT_FROM)
    rows, columns = head.window(-_turned(head), -50.0, head.width + 16.0, 40.0)
    part = picture[:, rows, columns]
    u, v = head.u[rows, columns] + _turned(head), head.v[rows, columns]
    half = head.width + 8.0
    across = u / half
    brim = -27.0 + 6.0 * low - 7.0 * across * across + 4.0
    crown = CROWN_V - 11.0
    above = np.maximum((v - TEMPLE_V) / (crown - TEMPLE_V), 0.0)
    distance = distance_to(across * across + above**2.4)
    cover = inside(distance, 1.6) * inside(v - brim, 1.4)
    high = np.clip(above, 0.0, 1.0)
    side = np.clip(across, -1.0, 1.0)
    fan = side / np.sqrt(1.05 - 0.85 * high * high)
    ribs = 0.9 + 0.13 * np.cos(34.0 * np.arcsin(np.clip(fan, -1.0, 1.0)))
    out = np.sqrt(np.clip(1.0 - side * side, 0.05, 1.0))
    facing = side * head.light[0] - 0.6 * high * head.light[1] + out * head.light[2]
    key = 0.35 + 0.5 * f.light_strength
    lit = 0.8 * (1.0 - key) + key * np.clip(0.2 + 0.85 * facing, 0.0, 1.2)
    fold = brim - 17.0
    seam = 1.0 - 0.45 * np.exp(-0.5 * np.square((v - fold + 1.5) / 1.8))
    band = 1.0 + np.float32(0.12) * (v > fold)
    shadow = inside(v - brim - 3.0, 7.0) * inside(distance, 2.0)
    paint(part, 0.5 * shadow, part * 0.3)
    colour = hue_colour(f.hat_hue, 0.35, 0.42)
    paint(part, cover, colour * (lit * ribs * seam * band))
