"""Eyes, brows, nose, mouth and glasses of a drawn face."""

from typing import Any

import numpy as np

from vae_jax.data.faces.factors import GLASSES_FROM, mouth_gap, past
from vae_jax.data.faces.geometry import (
    EYE_DEPTH,
    EYE_OFFSET,
    MOUTH_DEPTH,
    MOUTH_V,
    Array,
    Head,
    blend,
    inside,
    linear,
    nose_tip,
    paint,
    spot,
    step,
)
from vae_jax.data.faces.hair import body_hair_colour

IRIS = np.stack(
    [
        linear(46, 26, 16),
        linear(86, 52, 28),
        linear(118, 92, 48),
        linear(94, 116, 84),
        linear(84, 124, 150),
        linear(120, 160, 196),
    ]
)
WHITE = linear(228, 221, 216)
LASH = linear(28, 18, 16)
TEETH = linear(244, 238, 226)
THROAT = linear(72, 22, 24)
TONGUE = linear(176, 84, 82)
NATURAL_LIP = np.array([0.84, 0.5, 0.5], np.float32)[:, None, None]
LIPSTICK = linear(190, 36, 56)


def _eye_place(head: Head, side: float) -> tuple[float, float, float]:
    """Where an eye lies; -1 is the one on the left of the picture."""
    offset = EYE_OFFSET + 3.0 * (head.factors.eye_spacing - 0.5)
    return head.place(side * offset, 0.0, EYE_DEPTH)


def eyes(picture: Array, head: Head, skin: Array, shade: Array) -> None:
    """Both eyes with lids and lashes."""
    f = head.factors
    for side in (-1.0, 1.0):
        u, v, squeeze = _eye_place(head, side)
        rows, columns = head.window(u, v, 16.0, 13.0)
        x = side * (head.u[rows, columns] - u) / squeeze
        y = head.v[rows, columns] - v + 0.1 * f.eye_tilt * x
        part, lit = picture[:, rows, columns], shade[:, rows, columns]
        size = 0.88 + 0.24 * f.eye_size
        half = 10.2 * size
        along = np.clip(np.abs(x + 0.6) / half, 0.0, 1.0)
        arch = 1.0 - along * along * np.sqrt(along)
        upper = 1.2 - (3.1 + 4.2 * f.eye_openness) * size * arch
        lower = 1.2 + (1.4 + 1.5 * f.eye_openness) * size * (1.0 - along * along)
        within = np.abs(x + 0.6) < half + 1.0
        fade = step(np.abs(x + 0.6), half + 3.5, half - 3.0)

        crease = 0.42 * np.exp(-0.5 * np.square((y - upper + 3.1) / 0.9)) * fade
        paint(part, crease, skin * lit * linear(150, 118, 110))
        pouch = 0.22 * np.exp(-0.5 * np.square((y - lower - 2.6) / 1.1)) * fade
        paint(part, pouch, skin * lit * linear(190, 150, 145))

        opening = np.clip(np.minimum(y - upper, lower - y) / 1.1 + 0.5, 0.0, 1.0)
        ball = 1.0 - 0.45 * np.exp(-np.square((y - upper) / 2.2)) - 0.2 * along
        colour = _iris(f.iris, x - side * 2.2 * f.gaze, y + 0.5, size, ball)
        light = 0.1 + 0.9 * lit
        paint(part, opening * within, colour * light)
        glint = spot(side * x - 2.2 * f.gaze - 2.0 * head.light[0], y + 2.0, 0.85, 0.85)
        paint(part, 0.85 * glint * opening, linear(255, 252, 248))

        thick = 0.75 + 0.55 * np.clip((x + 2.0) / half, 0.0, 1.0)
        lash = np.exp(-0.5 * np.square((y - upper + 0.5) / thick))
        paint(part, 0.92 * lash * step(np.abs(x), half + 1.5, half - 1.0), LASH)
        rim = 0.45 * np.exp(-0.5 * np.square((y - lower - 0.3) / 0.75)) * within
        paint(part, rim * step(np.abs(x), half + 1.0, half - 4.0), LASH + 0.25 * skin)


def _iris(tone: float, x: Array, y: Array, size: float, ball: Array) -> Array:
    """The eye's white with its iris and pupil, [3, h, w]."""
    radius = np.sqrt(x * x + y * y)
    reach = 4.4 * size
    eye = WHITE * ball
    glow = 0.75 + 0.6 * step(y, -3.0, 4.0) - 0.45 * step(radius, reach - 1.8, reach)
    paint(eye, inside(radius - reach, 1.4), blend(IRIS, tone) * glow)
    paint(eye, inside(radius - 0.46 * reach, 1.4), LASH * 0.3)
    return eye


def brows(albedo: Array, head: Head, skin: Array) -> None:
    """Both eyebrows, in a darker tone of the hair."""
    f = head.factors
    colour = body_hair_colour(f, skin)
    for side in (-1.0, 1.0):
        u, v, squeeze = head.place(side * (EYE_OFFSET + 1.0), -15.0, EYE_DEPTH + 1.0)
        rows, columns = head.window(u, v, 16.0, 10.0)
        x = side * (head.u[rows, columns] - u) / squeeze
        y = head.v[rows, columns] - v + 4.0 * (f.brow_height - 0.5)
        t = (x + 12.5) / 26.0
        # An inner end that sinks makes a stern brow, one that rises a worried one.
        middle = 2.0 - (1.6 + 5.2 * f.brow_arch) * np.sin(
            np.pi * np.clip(0.15 + 0.75 * t, 0.0, 1.0)
        )
        middle = middle + 2.6 * f.brow_angle * (0.6 - t)
        thick = (1.3 + 2.2 * f.brow_thickness) * step(t, 1.1, 0.25)
        hairs = 0.95 + 0.05 * np.sin(1.7 * x + 1.2 * y)
        ends = step(t, -0.04, 0.14) * step(t, 1.04, 0.86)
        cover = inside(np.abs(y - middle) - thick, 1.8) * ends * hairs
        paint(albedo[:, rows, columns], (0.62 + 0.3 * f.brow_thickness) * cover, colour)


def nose(albedo: Array, head: Head) -> None:
    """Nostrils and the folds of the nose's wings; its body is relief."""
    width = 0.75 + 0.6 * head.factors.nose_width
    tip_u, tip_v = nose_tip(head)
    rows, columns = head.window(tip_u, tip_v, 18.0, 10.0)
    x, y = head.u[rows, columns] - tip_u, head.v[rows, columns] - tip_v
    x = x + 0.12 * tip_u
    part = albedo[:, rows, columns]
    for side in (-1.0, 1.0):
        dark = spot(x - side * 4.1 * width, y - 5.0 + 0.18 * side * x, 2.1 * width, 1.0)
        paint(part, 0.6 * dark, part * linear(96, 60, 58))
        wing = spot(x - side * 10.3 * width, y - 1.5, 1.1, 3.2)
        paint(part, 0.3 * wing, part * linear(120, 84, 80))


def _mouth(head: Head) -> tuple[Any, ...]:
    """Coordinates and edges of the mouth.

    Returns:
      The window's rows and columns; x across and its share of the half width;
      v; and v of the upper and lower edges of the gap and of the lips' outlines.
    """
    f = head.factors
    u, v, squeeze = head.place(0.0, MOUTH_V, MOUTH_DEPTH)
    rows, columns = head.window(u, v, 28.0, 26.0)
    x = (head.u[rows, columns] - u) / squeeze
    y = head.v[rows, columns] - v
    curve, gap = f.mouth_curvature, mouth_gap(f)
    half = 14.0 + 3.5 * f.mouth_width + 4.0 * max(0.0, curve)
    along = x / half
    rise = 7.5 * curve if curve > 0.0 else 4.4 * curve
    middle = -rise * (along * along - 0.35)
    room = np.clip(1.0 - along * along, 0.0, 1.0)
    bow = 1.0 - 0.3 * np.exp(-np.square(x / 2.2)) - 0.12 * np.abs(along)
    inner = np.power(room, 0.75)
    # A smile pulls the lips thin.
    full = (0.75 + 0.6 * f.lip_fullness) * (1.0 - 0.18 * max(0.0, curve))
    top, bottom = middle - 0.4 * gap * inner, middle + 0.6 * gap * inner
    outer_top = top - 4.3 * full * bow * np.sqrt(room)
    outer_bottom = bottom + 5.2 * full * np.power(room, 0.7)
    return rows, columns, x, along, y, top, bottom, outer_top, outer_bottom


def lips(albedo: Array, head: Head, skin: Array) -> None:
    """Both lips, the line between them, and the folds a mouth throws."""
    f = head.factors
    rows, columns, x, along, y, top, bottom, outer_top, outer_bottom = _mouth(head)
    part = albedo[:, rows, columns]
    smile = max(0.0, f.mouth_curvature)
    near = np.abs(along)
    # From the wings of the nose round the corners of the mouth.
    fold_x = 11.5 + 0.42 * (y + 14.0) + 1.5 * smile
    fold = np.exp(-0.5 * np.square((np.abs(x) - fold_x) / 1.5))
    fold = fold * step(y, -17.0, -9.0) * step(y, 7.0, -3.0)
    paint(part, (0.06 + 0.3 * smile) * fold, part * linear(160, 124, 116))
    corner = spot(near - 1.03, y - top, 0.07, 2.4)
    paint(part, 0.5 * corner, part * linear(120, 84, 80))
    under = spot(x, y - outer_bottom - 2.6, 9.0, 1.6)
    paint(part, 0.3 * under, part * linear(150, 118, 112))

    body = np.clip(np.minimum(y - outer_top, outer_bottom - y) / 1.4 + 0.5, 0.0, 1.0)
    body = body * step(near, 1.02, 0.94)
    made_up = past(f.lip_redness, 0.6)
    colour = skin * NATURAL_LIP
    colour = colour + (0.25 + 0.6 * made_up) * made_up * (LIPSTICK - colour)
    form = 0.8 + 0.34 * step(y, bottom - 1.0, bottom + 2.2)
    form = form - 0.22 * step(y - bottom, 2.0, 3.0 + 2.0 * f.lip_fullness)
    shine = 0.12 + 0.12 * made_up
    form = form + shine * spot(x - 4.0 * head.light[0], y - bottom - 2.0, 5.0, 1.0)
    paint(part, (0.78 + 0.2 * made_up) * body, colour * form)
    line = np.exp(-0.5 * np.square((y - top) / 0.8)) * step(near, 1.04, 0.9)
    paint(part, 0.75 * line, colour * linear(110, 70, 74))


def mouth_inside(picture: Array, head: Head, shade: Array) -> None:
    """Teeth and tongue where the lips part."""
    gap, curve = mouth_gap(head.factors), head.factors.mouth_curvature
    if not gap:
        return
    rows, columns, x, along, y, top, bottom, _, _ = _mouth(head)
    part, lit = picture[:, rows, columns], shade[:, rows, columns]
    opening = np.clip(np.minimum(y - top, bottom - y) / 1.1 + 0.5, 0.0, 1.0)
    opening = opening * step(np.abs(along), 0.99, 0.9) * min(1.0, gap / 2.0)
    paint(part, opening, THROAT * (0.35 + 0.4 * lit))
    tongue = (
        opening
        * step(y - bottom, -0.4 * max(gap, 5.0), 0.0)
        * float(step(gap, 5.0, 9.0))
    )
    paint(part, tongue, TONGUE * 0.6 * lit)
    # The upper teeth keep their length however far the mouth opens.
    edge = top + min(6.2, 0.85 * gap)
    dark = 1.0 - 0.65 * along * along - 0.25 * np.exp(-np.square((y - top) / 1.3))
    gaps = 1.0 - 0.1 * np.power(np.abs(np.cos(np.pi * x / 4.4)), 12.0)
    teeth = opening * np.clip(edge - y + 0.5, 0.0, 1.0)
    # A mouth drawn down covers the teeth.
    shown = float(step(gap, 0.5, 2.5) * step(curve, -0.6, 0.1))
    paint(part, shown * teeth, TEETH * dark * gaps * (0.3 + 0.7 * lit))


def glasses(picture: Array, head: Head) -> None:
    """Rims, bridge and temples in front of the eyes, if there are glasses."""
    f = head.factors
    heavy = past(f.glasses, GLASSES_FROM)
    if f.glasses <= GLASSES_FROM:
        return
    colour = linear(24, 20, 22) + f.glasses_tone**2 * (linear(178, 132, 66))
    thick = 0.75 + 0.9 * heavy
    depth = EYE_DEPTH + 9.0
    for side in (-1.0, 1.0):
        u, v, squeeze = head.place(side * (EYE_OFFSET + 0.5), 2.0, depth)
        rows, columns = head.window(u, v, 36.0, 18.0)
        x = side * (head.u[rows, columns] - u) / squeeze
        y = head.v[rows, columns] - v
        part = picture[:, rows, columns]
        corner_x, corner_y = np.abs(x) - 7.0, np.abs(y) - 3.5 - 0.06 * x
        distance = np.hypot(np.maximum(corner_x, 0.0), np.maximum(corner_y, 0.0)) - 8.5
        lens = inside(distance)
        paint(part, 0.015 * lens, linear(214, 226, 236))
        glare = lens * np.exp(-0.5 * np.square((x + 0.9 * y + 5.0) / 2.5))
        paint(part, 0.03 * glare, linear(255, 255, 255))
        shadow = inside(np.abs(distance - 0.5) - thick, 5.0) * step(y, -2.0, 10.0)
        paint(part, 0.25 * shadow, part * 0.4)
        rim = inside(np.abs(distance) - thick, 1.4)
        bridge = np.abs(y + 3.0 - 0.08 * x) - thick
        rim = np.maximum(rim, inside(bridge) * (x < -14.0) * (x > -20.5))
        across = np.abs(head.u[rows, columns] - head.axis[rows, columns])
        arm = inside(np.abs(y + 4.0) - thick) * (x > 14.5)
        rim = np.maximum(rim, arm * inside(across - head.width))
        paint(part, rim, colour)
