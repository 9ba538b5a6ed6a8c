"""Drawing a face from its factors: from background to camera."""

import math

import numpy as np

from vae_jax.data.faces import features, hair
from vae_jax.data.faces.factors import Factors
from vae_jax.data.faces.geometry import (
    CROWN_V,
    EYE_DEPTH,
    HEIGHT,
    MOUTH_V,
    WIDTH,
    Array,
    Head,
    blend,
    distance_to,
    face_level,
    face_relief,
    hue_colour,
    inside,
    linear,
    nose_tip,
    paint,
    pose,
    slopes,
    spot,
    step,
)

SKIN = np.stack(
    [
        linear(250, 222, 206),
        linear(240, 202, 176),
        linear(226, 178, 146),
        linear(202, 148, 112),
        linear(164, 112, 80),
        linear(124, 80, 57),
        linear(88, 56, 42),
    ]
)
# Light scatters under skin, red furthest: how far each channel wraps round.
WRAP = np.array([0.42, 0.24, 0.18], np.float32)[:, None, None]


def draw(factors: Factors) -> np.ndarray:
    """Draw a face.

    The same factors give the same bytes on the same machine and numpy.

    Args:
      factors: what to draw; values outside the stated ranges are not refused.

    Returns:
      The picture, uint8 [218, 178, 3], RGB.
    """
    head = pose(factors)
    skin = skin_colour(factors)
    picture = background(head)
    look = hair.comb(head)
    hair.hair_behind(picture, look)
    neck_and_clothes(picture, head, skin)
    ears(picture, head, skin)
    face(picture, head, skin)
    features.glasses(picture, head)
    hair.hair_front(picture, look)
    hair.hat(picture, head)
    return camera(picture, factors)


def skin_colour(factors: Factors) -> Array:
    """The skin's colour, linear [3, 1, 1]."""
    warmth = np.array([0.02, 0.01, -0.18], np.float32)[:, None, None]
    return blend(SKIN, factors.skin_melanin) * (1.0 + factors.skin_warmth * warmth)


def background(head: Head) -> Array:
    """A soft backdrop, brighter to one side, as a new picture."""
    f = head.factors
    lightness = 0.2 + 0.52 * f.background_lightness
    colour = hue_colour(f.background_hue, 0.12, lightness)
    x = np.linspace(-1.0, 1.0, WIDTH, dtype=np.float32)[None, :]
    y = np.linspace(-1.0, 1.0, HEIGHT, dtype=np.float32)[:, None]
    glow = spot(x - 0.7 * f.background_tilt, y + 0.35, 0.8, 0.9)
    fall = 0.62 + 0.75 * glow + 0.16 * f.background_tilt * x - 0.08 * y
    return np.ascontiguousarray(colour * fall[None])


def neck_and_clothes(picture: Array, head: Head, skin: Array) -> None:
    """Neck in the chin's shadow, shoulders and a round collar."""
    f = head.factors
    turn = math.sin(math.radians(f.yaw))
    window = head.window(0.0, 80.0, WIDTH, 60.0)
    picture, head = picture[:, window[0], window[1]], head.cut(window)
    # The body stays upright and faces the camera while the head turns.
    u = head.u + math.radians(f.roll) * head.v + 0.4 * EYE_DEPTH * turn
    v = head.v
    half = 22.0 + 3.5 * f.face_width + 10.0 * step(v, head.chin + 4.0, 112.0)
    side = np.clip(u / half, -1.0, 1.0)
    bulge = np.sqrt(1.0 - 0.9 * side * side)
    lit = 0.34 + 0.5 * bulge + 0.3 * head.light[0] * side
    lit = lit * (0.5 + 0.5 * step(v, head.chin - 2.0, head.chin + 34.0))
    paint(picture, inside(np.abs(u) - half) * (v > 20.0), skin * lit)
    slope = 0.0035 * u * u
    collar = head.chin + 21.0 - 0.016 * np.square(np.minimum(np.abs(u), 36.0))
    shoulder = head.chin + 14.0 + slope
    shoulder += step(np.abs(u), half + 1.5, half - 1.5) * (collar - shoulder)
    colour = hue_colour(f.clothes_hue, 0.22, 0.18 + 0.6 * f.clothes_lightness)
    folds = 0.75 + 0.12 * np.sin(0.11 * u + 0.03 * v) + 0.25 * head.light[0] * u / 90.0
    paint(picture, inside(shoulder - v, 1.8), colour * folds)


def ears(picture: Array, head: Head, skin: Array) -> None:
    """Ears at the sides of the head, the one turned away hidden."""
    turn = math.sin(math.radians(head.factors.yaw))
    for side in (-1.0, 1.0):
        u = -EYE_DEPTH * turn + side * (head.width + 1.0 - 12.0 * max(0.0, side * turn))
        window = head.window(u, 9.0, 14.0, 18.0)
        x = head.u[window] - u + 0.12 * side * head.v[window]
        y = head.v[window] - 9.0
        level = np.square(x / 6.5) + np.square(y / (14.0 + 0.15 * y))
        fold = 1.0 - 0.35 * spot(x - 1.5 * side, y, 2.2, 7.0)
        lit = (0.62 + 0.3 * side * head.light[0]) * fold
        part = picture[:, window[0], window[1]]
        paint(part, inside(distance_to(level)), skin * lit * REDDER)


REDDER = np.array([1.0, 0.86, 0.82], np.float32)[:, None, None]


def face(picture: Array, head: Head, skin: Array) -> None:
    """The head: skin, eyes, brows, nose, mouth and beard, in their light."""
    middle = 0.5 * (CROWN_V + head.chin)
    tall = 0.5 * (head.chin - CROWN_V) + 4.0
    turned = 0.5 * EYE_DEPTH * math.sin(math.radians(head.factors.yaw))
    window = head.window(-turned, middle, head.width + abs(turned) + 4.0, tall)
    part, head = picture[:, window[0], window[1]], head.cut(window)
    level = face_level(head)
    relief = face_relief(head, level)
    normals = normal(relief)
    shade = light(head, normals, level)
    albedo = complexion(head, skin)
    features.brows(albedo, head, skin)
    features.nose(albedo, head)
    features.lips(albedo, head, skin)
    hair.beard(albedo, head, skin)
    paint(part, inside(distance_to(level), 1.5), albedo * shade + gloss(head, normals))
    features.eyes(part, head, skin, shade)
    features.mouth_inside(part, head, shade)


def complexion(head: Head, skin: Array) -> Array:
    """The skin's colour before light, redder on cheeks, nose and ears."""
    f = head.factors
    red = 0.3 * spot(head.u - nose_tip(head)[0], head.v - nose_tip(head)[1], 7.0, 6.0)
    for side in (-1.0, 1.0):
        u, v, squeeze = head.place(side * 25.0, 22.0, 38.0)
        rosy = spot((head.u - u) / squeeze, head.v - v, 9.5, 8.0)
        red += (0.15 + 0.95 * f.blush) * rosy
    tint = np.array([0.0, -0.26, -0.2], np.float32)[:, None, None]
    return skin * (1.0 + red * tint)


def normal(relief: Array) -> tuple[Array, Array, Array]:
    """The unit normals of a relief: right, down and out of the picture."""
    du, dv = slopes(relief)
    length = 1.0 / np.sqrt(1.0 + du * du + dv * dv)
    return -du * length, -dv * length, length


def light(head: Head, normals: tuple[Array, ...], level: Array) -> Array:
    """Light on the face's skin, [3, H, W]; about 1 where it faces the light."""
    f = head.factors
    right, down, out = normals
    facing = right * head.light[0] + down * head.light[1] + out * head.light[2]
    key = 0.4 + 0.5 * f.light_strength
    diffuse = np.clip((facing + WRAP) / (1.0 + WRAP), 0.0, 1.0)
    sky = 0.85 - 0.15 * down
    shade = (1.0 - key) * sky * (0.55 + 0.45 * out) + 1.15 * key * diffuse
    # The nose and the brim of the forehead throw soft shadows from the light.
    tip_u, tip_v = nose_tip(head)
    away_u = tip_u - 9.0 * head.light[0]
    shadow = 0.4 * spot(head.u - away_u, head.v - tip_v - 7.0, 6.5, 3.2)
    shadow += 0.18 * step(head.v, -30.0, -48.0)
    shadow += 0.16 * spot(head.u - tip_u, head.v - MOUTH_V - 13.0, 9.0, 2.4)
    shade = shade * (1.0 - key * shadow)
    # A photographer exposes for the face, if not fully.
    middle = shade[1, ::4, ::4][level[::4, ::4] < 0.7].mean()
    return shade * float(0.9 / middle) ** 0.8


def gloss(head: Head, normals: tuple[Array, ...]) -> Array:
    """The skin's sheen, [H, W]."""
    right, down, out = normals
    half = head.light + np.array([0.0, 0.0, 1.0], np.float32)
    half = half / np.linalg.norm(half)
    facing = np.clip(right * half[0] + down * half[1] + out * half[2], 0.0, 1.0)
    shine = np.square(np.square(np.square(np.square(facing))))
    return (0.03 + 0.07 * head.factors.light_strength) * shine


def camera(picture: Array, factors: Factors) -> np.ndarray:
    """Linear light to an 8-bit RGB picture, warm or cool, with rolled-off lights."""
    warmth = np.array([0.07, 0.0, -0.09], np.float32)[:, None, None]
    exposed = np.maximum(picture * (1.0 + factors.light_warmth * warmth), 0.0)
    # A shoulder that keeps the highlights from burning out.
    exposed = 1.16 * exposed / (1.0 + 0.16 * exposed)
    display = np.sqrt(np.minimum(exposed, 1.0)) * np.float32(255.0) + 0.5
    return np.ascontiguousarray(display.astype(np.uint8).transpose(1, 2, 0))
