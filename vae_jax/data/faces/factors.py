"""The independent factors a drawn face is made from, and what they decide."""

import dataclasses

import numpy as np

# Present or absent things: there past the threshold, and more of it further on.
GLASSES_FROM = 0.86
HAT_FROM = 0.93
BEARD_FROM = 0.80
MUSTACHE_FROM = 0.88
LIPSTICK_FROM = 0.75
GRAY_FROM = 0.90
BALD_BELOW = 0.05
# Up to this much of its growth a beard keeps to the chin.
GOATEE_BELOW = 0.30
SMILE_FROM = 0.10
# Gap between the lips in pixels past which a mouth counts as open.
OPEN_FROM = 1.5

# Standard deviation and clip of the pose, in degrees.
POSE = {"yaw": (9.0, 22.0), "pitch": (3.5, 8.0), "roll": (2.5, 6.0)}
SIGNED = {
    "skin_warmth",
    "hair_part",
    "eye_tilt",
    "gaze",
    "brow_angle",
    "mouth_curvature",
    "light_azimuth",
    "light_warmth",
    "background_tilt",
}


@dataclasses.dataclass(frozen=True)
class Factors:
    """What decides a face, each independent of the others.

    `yaw`, `pitch` and `roll` are degrees, normal about 0 with standard deviations
    9, 3.5 and 2.5, clipped at 22, 8 and 6. The factors marked -1..1 are uniform
    there, all others uniform on 0..1. They are positions on a scale, not pixels:
    0 is the first and 1 the second end named.
    """

    yaw: float  # degrees; positive turns towards the right of the picture
    pitch: float  # degrees; positive looks down
    roll: float  # degrees; positive tilts clockwise
    face_width: float  # narrow to wide
    face_length: float  # short to long chin
    jaw: float  # pointed to square
    skin_melanin: float  # light to dark
    skin_warmth: float  # -1..1, pink to golden
    blush: float  # none to rosy cheeks
    hair_length: float  # none below 0.05, cropped, then down to the chest
    hair_volume: float  # flat to full
    hair_wave: float  # straight to wavy
    hair_part: float  # -1..1, parted left to right
    fringe: float  # high forehead to bangs
    hair_tone: float  # black to blond
    hair_red: float  # neutral to red
    hair_gray: float  # gray past 0.9
    eye_size: float  # small to large
    eye_spacing: float  # close to wide
    eye_openness: float  # narrow to wide open
    eye_tilt: float  # -1..1, outer corners down to up
    iris: float  # dark brown over hazel and green to blue
    gaze: float  # -1..1, looks left to right
    brow_thickness: float  # thin to bushy
    brow_height: float  # low to high
    brow_arch: float  # flat to arched
    brow_angle: float  # -1..1, worried to stern
    nose_width: float  # narrow to broad
    nose_length: float  # short to long
    lip_fullness: float  # thin to full
    lip_redness: float  # natural; lipstick past 0.75
    mouth_width: float  # narrow to wide
    mouth_curvature: float  # -1..1, frown to broad smile with teeth
    mouth_opening: float  # closed up to 0.5, then opening
    beard: float  # from 0.8 on: chin, then jaw, then full
    mustache: float  # from 0.88 on, growing
    glasses: float  # from 0.86 on, rims growing heavier
    glasses_tone: float  # dark to golden rims
    hat: float  # from 0.93 on, sitting lower
    hat_hue: float  # around the colour circle
    light_azimuth: float  # -1..1, from the left to from the right
    light_elevation: float  # level to from above
    light_strength: float  # even to contrasty
    light_warmth: float  # -1..1, cool to warm
    background_hue: float  # around the colour circle
    background_lightness: float  # dark to light
    background_tilt: float  # -1..1, brighter on the left to on the right
    clothes_hue: float  # around the colour circle
    clothes_lightness: float  # dark to light


def sample_factors(rng: np.random.Generator) -> Factors:
    """Draw one face's factors, independently, as `Factors` states."""
    names = [field.name for field in dataclasses.fields(Factors)]
    values = dict(zip(names, rng.random(len(names)), strict=True))
    values |= {name: 2.0 * values[name] - 1.0 for name in SIGNED}
    for name, (deviation, bound) in POSE.items():
        values[name] = min(max(rng.normal(0.0, deviation), -bound), bound)
    # The stored data set holds float32: draw from what will be read back.
    return Factors(**{name: float(np.float32(v)) for name, v in values.items()})


def past(value: float, threshold: float) -> float:
    """How far past a threshold below 1 a factor is: 0 at and below it, 1 at 1."""
    return max(0.0, value - threshold) / (1.0 - threshold)


def mouth_gap(factors: Factors) -> float:
    """Height of the gap between the lips in pixels, from opening and smile."""
    smile_gap = 5.5 * np.clip((factors.mouth_curvature - 0.35) / 0.5, 0.0, 1.0)
    return float(np.hypot(11.0 * past(factors.mouth_opening, 0.5), smile_gap))


def attributes(factors: Factors) -> dict[str, bool]:
    """Those of CelebA's attributes that the factors decide, under CelebA's names.

    Hair counts as black, brown, blond or gray also under a hat, since it shows at
    the sides; a bald head has no hair colour, and a hat hides baldness and bangs.
    """
    f = factors
    hat = f.hat > HAT_FROM
    bald = f.hair_length < BALD_BELOW
    gray = f.hair_gray > GRAY_FROM and not bald
    coloured = not bald and not gray
    beard, mustache = f.beard > BEARD_FROM, f.mustache > MUSTACHE_FROM
    return {
        "Arched_Eyebrows": f.brow_arch > 0.7,
        "Bald": bald and not hat,
        "Bangs": f.fringe > 0.7 and not bald and not hat,
        "Big_Lips": f.lip_fullness > 0.7,
        "Big_Nose": f.nose_width > 0.75,
        "Black_Hair": coloured and f.hair_tone < 0.25,
        "Blond_Hair": coloured and f.hair_tone > 0.75,
        "Brown_Hair": coloured and 0.3 < f.hair_tone < 0.65,
        "Bushy_Eyebrows": f.brow_thickness > 0.75,
        "Eyeglasses": f.glasses > GLASSES_FROM,
        "Goatee": beard and past(f.beard, BEARD_FROM) < GOATEE_BELOW,
        "Gray_Hair": gray,
        "Mouth_Slightly_Open": mouth_gap(f) > OPEN_FROM,
        "Mustache": mustache,
        "Narrow_Eyes": f.eye_openness < 0.2,
        "No_Beard": not beard and not mustache,
        "Oval_Face": f.jaw < 0.4 and f.face_length > 0.5,
        "Pale_Skin": f.skin_melanin < 0.08,
        "Rosy_Cheeks": f.blush > 0.85,
        "Smiling": f.mouth_curvature > SMILE_FROM,
        "Straight_Hair": f.hair_wave < 0.3 and f.hair_length > 0.3,
        "Wavy_Hair": f.hair_wave > 0.6 and f.hair_length > 0.3,
        "Wearing_Hat": hat,
        "Wearing_Lipstick": f.lip_redness > LIPSTICK_FROM,
    }
