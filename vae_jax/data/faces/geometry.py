"""Where the parts of a drawn face lie: pose, outline and relief of the head.

Head coordinates are pixels from the point between the eyes, u to the right and v
down, in the picture plane after the roll is taken out. Pictures are float32
[3, H, W] in linear light, masks [H, W] in 0..1.
"""

import dataclasses
import math

import numpy as np

from vae_jax.data.faces.factors import Factors, mouth_gap

WIDTH, HEIGHT = 178, 218
# CelebA's aligned faces have the eyes at (69, 111) and (108, 111).
CENTRE = (88.5, 111.0)
EYE_OFFSET = 19.5
# Distances in front of the axis the head turns about, in pixels.
EYE_DEPTH, MOUTH_DEPTH, NOSE_DEPTH = 40.0, 47.0, 61.0
MOUTH_V = 41.0
# Height of the widest line of the face and of the crown.
TEMPLE_V, CROWN_V = -2.0, -65.0

Array = np.ndarray
Level = float | Array
_ROWS, _COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


def linear(red: float, green: float, blue: float) -> Array:
    """An 8-bit colour as linear light, float32 [3, 1, 1]."""
    return np.square(np.array([red, green, blue], np.float32) / 255.0)[:, None, None]


def blend(colours: Array, position: float) -> Array:
    """The colour at `position` in 0..1 along `colours` [N, 3, 1, 1]."""
    place = position * (len(colours) - 1)
    first = min(int(place), len(colours) - 2)
    return colours[first] + (place - first) * (colours[first + 1] - colours[first])


def hue_colour(hue: float, saturation: float, lightness: float) -> Array:
    """A soft colour as linear light; all three arguments in 0..1."""
    phase = 2.0 * np.pi * (hue - np.array([0.0, 1.0, 2.0]) / 3.0)
    display = lightness * (1.0 + saturation * (np.cos(phase) - 0.3))
    return np.square(np.clip(display, 0.0, 1.0)).astype(np.float32)[:, None, None]


# The next four are most of the time that drawing takes: hence the work in place.
def paint(picture: Array, mask: Array, colour: Array) -> None:
    """Lay a colour or picture over `picture` in place, as far as `mask` covers."""
    change = colour - picture
    change *= mask
    picture += change


def inside(distance: Array, softness: float = 1.2) -> Array:
    """Coverage of a shape from its signed distance in pixels, negative inside."""
    cover = distance * (-1.0 / softness)
    cover += 0.5
    np.maximum(cover, 0.0, out=cover)
    return np.minimum(cover, 1.0, out=cover)


def step(value: Level, start: Level, end: Level) -> Array:
    """A smooth step from 0 at `start` to 1 at `end`, which may be the smaller."""
    t = np.clip((value - start) / (end - start), 0.0, 1.0)
    rise = 3.0 - 2.0 * t
    rise *= t
    rise *= t
    return rise


def spot(x: Array, y: Array, sx: float, sy: float) -> Array:
    """A Gaussian spot of height 1 with standard deviations in pixels."""
    exponent = x * (math.sqrt(0.5) / sx)
    exponent *= exponent
    down = y * (math.sqrt(0.5) / sy)
    down *= down
    exponent = exponent + down
    np.negative(exponent, out=exponent)
    return np.exp(exponent, out=exponent)


def slopes(height: Array) -> tuple[Array, Array]:
    """Central differences of `height` along u and v."""
    du, dv = np.zeros_like(height), np.zeros_like(height)
    du[:, 1:-1] = 0.5 * (height[:, 2:] - height[:, :-2])
    dv[1:-1] = 0.5 * (height[2:] - height[:-2])
    du[:, 0], du[:, -1], dv[0], dv[-1] = du[:, 1], du[:, -2], dv[1], dv[-2]
    return du, dv


def distance_to(level: Array) -> Array:
    """Approximate signed distance to where `level` is 1, negative where it is less."""
    du, dv = slopes(level)
    return (level - 1.0) / (np.sqrt(du * du + dv * dv) + 1e-4)


@dataclasses.dataclass(frozen=True)
class Head:
    """The posed head: coordinates of each pixel and what follows from the pose.

    Attributes:
      factors: what the head was made from.
      u, v: head coordinates of each pixel, float32 [H, W].
      axis: u of the head's middle line at each pixel's height [H, W].
      width: half width of the face at its widest, in pixels.
      chin: v of the chin.
      light: unit vector towards the light (right, down, out of the picture).
      corner: row and column of the picture at which u and v start.
    """

    factors: Factors
    u: Array
    v: Array
    axis: Array
    width: float
    chin: float
    light: Array
    corner: tuple[int, int] = (0, 0)

    def shift(self, depth: float) -> tuple[float, float]:
        """How far turning moves what lies at `depth`, against the eyes."""
        reach = depth - EYE_DEPTH
        yaw, pitch = math.radians(self.factors.yaw), math.radians(self.factors.pitch)
        return reach * math.sin(yaw), reach * math.sin(pitch)

    def place(self, x: float, y: float, depth: float) -> tuple[float, float, float]:
        """Head coordinates of a point of the face, and its foreshortening along u.

        Points lie on a cylinder about the head's axis: `x` and `y` are where the
        point is when the face looks straight ahead.
        """
        yaw = math.radians(self.factors.yaw)
        angle = math.atan2(x, depth)
        radius = math.hypot(x, depth)
        u = radius * math.sin(angle + yaw) - EYE_DEPTH * math.sin(yaw)
        squeeze = math.cos(angle + yaw) / math.cos(angle)
        return u, y + self.shift(depth)[1], max(0.35, squeeze)

    def window(
        self, u: float, v: float, reach_u: float, reach_v: float
    ) -> tuple[slice, slice]:
        """Rows and columns of u and v that hold a box about a point."""
        roll = math.radians(self.factors.roll)
        cosine, sine = math.cos(roll), math.sin(roll)
        column = CENTRE[0] + u * cosine - v * sine - self.corner[1]
        row = CENTRE[1] + u * sine + v * cosine - self.corner[0]
        tall = reach_v * cosine + reach_u * abs(sine)
        wide = reach_u * cosine + reach_v * abs(sine)
        return (
            slice(max(0, int(row - tall)), max(0, int(row + tall) + 1)),
            slice(max(0, int(column - wide)), max(0, int(column + wide) + 1)),
        )

    def cut(self, window: tuple[slice, slice]) -> "Head":
        """The same head seen through a window: its pixels are the window's."""
        rows, columns = window
        return dataclasses.replace(
            self,
            u=self.u[window],
            v=self.v[window],
            axis=self.axis[window],
            corner=(self.corner[0] + rows.start, self.corner[1] + columns.start),
        )


def pose(factors: Factors) -> Head:
    """Place the head of `factors` in the picture."""
    f = factors
    roll, yaw = math.radians(f.roll), math.radians(f.yaw)
    x, y = _COLUMNS - CENTRE[0], _ROWS - CENTRE[1]
    u = math.cos(roll) * x + math.sin(roll) * y
    v = math.cos(roll) * y - math.sin(roll) * x
    width = 43.0 + 5.5 * f.face_width
    chin = 64.0 + 8.0 * f.face_length + 0.45 * mouth_gap(f)
    # The axis turns away under the eyes; the chin stays with the face.
    depth = EYE_DEPTH * (1.0 - 0.8 * step(v, 0.0, chin))
    azimuth, elevation = 1.05 * f.light_azimuth, 0.1 + 0.65 * f.light_elevation
    light = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            -np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        np.float32,
    )
    return Head(f, u, v, -depth * math.sin(yaw), width, chin, light)


def face_level(head: Head) -> Array:
    """A function of the picture that is below 1 within the face, 0 at its middle."""
    f = head.factors
    above = np.maximum((head.v - TEMPLE_V) / (CROWN_V - TEMPLE_V), 0.0)
    t = np.maximum((head.v - TEMPLE_V) / (head.chin - TEMPLE_V), 0.0)
    taper = (0.46 - 0.24 * f.jaw) * np.power(np.minimum(t, 1.2), 1.5)
    across = (head.u - head.axis) / (head.width * (1.0 - taper))
    # The square times the root is a power at half its cost.
    crown = above * above * np.sqrt(above)
    return across * across + crown + np.power(t, 2.5 + 1.2 * f.jaw)


def raise_spot(
    relief: Array, head: Head, u: float, v: float, su: float, sv: float, height: float
) -> None:
    """Raise a Gaussian spot out of a relief in place, where it is not yet nothing."""
    window = head.window(u, v, 3.6 * su, 3.6 * sv)
    relief[window] += height * spot(head.u[window] - u, head.v[window] - v, su, sv)


def face_relief(head: Head, level: Array) -> Array:
    """How far the face stands out of the picture, in pixels [H, W]."""
    f = head.factors
    relief = 44.0 * np.sqrt(np.clip(1.0 - level, 0.0, 1.0) + 0.004)
    smile = max(0.0, f.mouth_curvature)
    for side in (-1.0, 1.0):
        u, v, squeeze = head.place(side * EYE_OFFSET, 0.0, EYE_DEPTH)
        inner = u - 3.0 * side * squeeze
        raise_spot(relief, head, inner, v - 2.0, 10.0 * squeeze, 6.5, -3.6)
        raise_spot(relief, head, u, v + 0.5, 7.0 * squeeze, 4.0, 2.2)
        raise_spot(relief, head, u + 2.0 * side, v - 15.0, 12.0 * squeeze, 4.5, 2.4)
        u, v, squeeze = head.place(side * 25.0, 22.0 - 3.0 * smile, 38.0)
        raise_spot(relief, head, u, v, 10.0 * squeeze, 8.5, 2.6 + 2.6 * smile)
    u, v, _ = head.place(0.0, MOUTH_V, MOUTH_DEPTH)
    raise_spot(relief, head, u, v, 17.0, 10.0, 3.0)
    u = head.place(0.0, head.chin, 44.0)[0]
    raise_spot(relief, head, u, head.chin - 11.0, 9.0, 6.0, 3.2)
    raise_spot(relief, head, u, head.chin - 20.5, 12.0, 3.0, -1.6)
    return relief + nose_relief(head)


def nose_tip(head: Head) -> tuple[float, float]:
    """Head coordinates of the tip of the nose."""
    return head.place(0.0, 20.0 + 6.0 * head.factors.nose_length, NOSE_DEPTH)[:2]


def nose_relief(head: Head) -> Array:
    """How far the nose stands out of the face, in pixels [H, W]."""
    width = 0.75 + 0.6 * head.factors.nose_width
    tip_u, tip_v = nose_tip(head)
    along = np.clip((head.v + 8.0) / (tip_v + 8.0), 0.0, 1.3)
    x = head.u - tip_u * along
    height = 1.5 + 9.0 * along * along
    under = step(head.v + 0.05 * x * x / width, tip_v + 10.0, tip_v - 2.0)
    ridge = height * step(along, 0.0, 0.3) * under
    relief = ridge * np.exp(-0.5 * np.square(x / (width * (2.8 + 2.6 * along))))
    raise_spot(relief, head, tip_u, tip_v, 4.2 * width, 4.0, 3.0)
    for side in (-1.0, 1.0):
        wing = tip_u + side * 7.2 * width
        raise_spot(relief, head, wing, tip_v + 2.0, 3.2, 3.6, 3.8)
    return relief
