"""Picture files of every kind, as training pictures and by --pictures."""

import io
import itertools
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core import constants

from vae_jax.data import cache, decoding, folder_files, picture_files, zips
from vae_jax.data.pictures import read_pictures
from vae_jax.errors import UserError

RECIPE = {"crop": "centre", "channels": 3, "size": 8, "resampler": "bilinear"}
ORIENTATION = 0x0112


def noise(seed, size=(40, 30), mode="RGB"):
    """A picture with smooth colours, so that JPEG keeps them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encode(picture, kind="jpeg", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(levels, depth=8, colour=0, key=b"", palette=b""):
    """A PNG made without PIL, of levels [H,W] or [H,W,channels]."""
    height, width = levels.shape[:2]
    lines = b""
    for line in levels.reshape(height, -1):
        if depth == 16:
            packed = line.astype(">u2").tobytes()
        else:
            bits = line.astype(np.uint8)[:, None] >> np.arange(depth)[::-1] & 1
            packed = np.packbits(bits.reshape(-1)).tobytes()
        lines += b"\0" + packed
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def put_in(file, kind, data):
    """A PNG with a chunk behind its header."""
    return file[:33] + chunk(kind, data) + file[33:]


def over_white(colours, alpha):
    alpha = alpha[..., None] / 255
    return (colours * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 9, 3), np.uint8)
GRAY = COLOURS[..., 0]
ALPHA = RNG.integers(0, 256, (12, 9), np.uint8)
WIDE = RNG.integers(0, 65536, (12, 9, 4))
WIDE[0, 0] = WIDE[5, 5] = WIDE[7, 7] = (1000, 2000, 3000, 0)
SHADES = {depth: RNG.integers(0, 2**depth, (12, 9)) for depth in (1, 2, 4, 8)}
PALETTE = RNG.integers(0, 256, (256, 3), np.uint8)
KEY = bytes([0, 100, 200])  # alpha of the first entries of a palette
ALPHAS = np.array([*KEY, *[255] * 253])


def scaled(depth):
    return SHADES[depth] * 255 // (2**depth - 1)


def keyed(levels, through):
    levels = levels.astype(np.uint8)
    levels[through] = 255
    return levels


DEEP = (WIDE[..., 0] / 65535 * 255).round().astype(np.uint8)
UPPER = (WIDE[..., :3] >> 8).astype(np.uint8)
SEE_THROUGH = (WIDE[..., :3] == WIDE[0, 0, :3]).all(axis=-1)
# By kind: a file, and what is to be seen of it.
EXACT = {
    "gray": (png(GRAY), GRAY),
    "gray with a gray for transparent": (
        png(GRAY, key=struct.pack(">H", GRAY[3, 3])),
        keyed(GRAY, GRAY == GRAY[3, 3]),
    ),
    "gray, 16 bits": (png(WIDE[..., 0], 16), DEEP),
    "gray, 16 bits, with a gray for transparent": (
        png(WIDE[..., 0], 16, key=struct.pack(">H", 1000)),
        keyed(DEEP, WIDE[..., 0] == 1000),
    ),
    "gray with alpha": (
        png(np.dstack([GRAY, ALPHA]), 8, 4),
        over_white(np.dstack([GRAY] * 3), ALPHA),
    ),
    "gray with alpha, 16 bits": (
        png(WIDE[..., [0, 3]], 16, 4),
        over_white(np.dstack([WIDE[..., 0] >> 8] * 3), WIDE[..., 3] >> 8),
    ),
    "colour": (png(COLOURS, 8, 2), COLOURS),
    "colour with a colour for transparent": (
        png(COLOURS, 8, 2, struct.pack(">3H", *COLOURS[3, 3])),
        keyed(COLOURS, (COLOURS == COLOURS[3, 3]).all(axis=-1)),
    ),
    "colour, 16 bits": (png(WIDE[..., :3], 16, 2), UPPER),
    "colour, 16 bits, with a colour for transparent": (
        png(WIDE[..., :3], 16, 2, struct.pack(">3H", 1000, 2000, 3000)),
        keyed(UPPER, SEE_THROUGH),
    ),
    "colour with alpha": (
        png(np.dstack([COLOURS, ALPHA]), 8, 6),
        over_white(COLOURS, ALPHA),
    ),
    "colour with alpha, 16 bits": (
        png(WIDE, 16, 6),
        over_white(UPPER, WIDE[..., 3] >> 8),
    ),
    "odd metadata": (put_in(png(COLOURS, 8, 2), b"eXIf", b"garbage"), COLOURS),
    "odd text": (
        put_in(png(GRAY), b"tEXt", b"Raw profile type exif\0\nexif\n 9\nzz"),
        GRAY,
    ),
    "orientation in XMP": (
        put_in(
            png(COLOURS, 8, 2),
            b"iTXt",
            b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>',
        ),
        np.rot90(COLOURS, -1),
    ),
    "bytes behind its end": (png(COLOURS, 8, 2) + bytes(99), COLOURS),
    "webp": (encode(Image.fromarray(COLOURS), "webp", lossless=True), COLOURS),
    "webp with alpha": (
        encode(
            Image.fromarray(np.dstack([COLOURS, ALPHA])),
            "webp",
            lossless=True,
            exact=True,
        ),
        over_white(COLOURS, ALPHA),
    ),
    "webp, odd metadata": (
        encode(
            Image.fromarray(COLOURS), "webp", lossless=True, exif=b"Exif\0\0garbage"
        ),
        COLOURS,
    ),
    "bmp, gray": (encode(Image.fromarray(GRAY), "bmp"), GRAY),
    "bmp, colour": (encode(Image.fromarray(COLOURS), "bmp"), COLOURS),
    "bmp, one bit": (
        encode(Image.fromarray(GRAY > 99), "bmp"),
        (GRAY > 99) * np.uint8(255),
    ),
    "bmp, palette": (
        encode(noise(1).quantize(16), "bmp"),
        np.asarray(noise(1).quantize(16).convert("RGB")),
    ),
    "bmp, 32 bits": (
        encode(Image.fromarray(np.dstack([COLOURS, 255 + 0 * ALPHA])), "bmp"),
        COLOURS,
    ),
    "one pixel": (png(GRAY[:1, :1]), GRAY[:1, :1]),
    "a line": (png(np.arange(10_000)[None] % 256), np.arange(10_000)[None] % 256),
}
for depth in (1, 2, 4):
    EXACT[f"gray, bits: {depth}"] = png(SHADES[depth], depth), scaled(depth)
    EXACT[f"gray, bits with one for transparent: {depth}"] = (
        png(SHADES[depth], depth, key=b"\0\1"),
        keyed(scaled(depth), SHADES[depth] == 1),
    )
for depth, levels in SHADES.items():
    colours, entries = PALETTE[levels], PALETTE[: 2**depth].tobytes()
    EXACT[f"palette, bits: {depth}"] = png(levels, depth, 3, palette=entries), colours
    EXACT[f"palette, bits with one for transparent: {depth}"] = (
        png(levels, depth, 3, b"\xff\0", entries),
        keyed(colours, levels == 1),
    )
    EXACT[f"palette, bits with alpha: {depth}"] = (
        png(levels, depth, 3, KEY[: 2**depth], entries),
        over_white(colours, ALPHAS[levels]),
    )
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: np.rot90,
}
for kind, orientation in itertools.product(("png", "webp", "jpeg"), TURNS):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossless = {"lossless": True} if kind == "webp" else {}
    file = encode(noise(9), kind, exif=exif, **lossless)
    unturned = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    EXACT[f"{kind}, orientation {orientation}"] = file, TURNS[orientation](unturned)

JPEG = encode(noise(0), quality=95)
CMYK = encode(noise(3, mode="CMYK"), quality=95)
ADOBE = CMYK.index(b"Adobe") + 11
# Several pictures in a file, of which the first counts.
FRAMES = [noise(1), noise(2), noise(3)]
SEVERAL = {
    "APNG": encode(FRAMES[0], "png", save_all=True, append_images=FRAMES[1:]),
    "APNG with a picture of its own": encode(
        FRAMES[0], "png", save_all=True, default_image=True, append_images=FRAMES[1:]
    ),
    "WEBP": encode(
        FRAMES[0], "webp", save_all=True, append_images=FRAMES[1:], lossless=True
    ),
    "MPO": encode(FRAMES[0], "mpo", save_all=True, append_images=FRAMES[1:]),
}
# What is stored as PIL sees it.
AS_PIL = SEVERAL | {
    "jpeg": JPEG,
    "gray jpeg": encode(noise(7, mode="L")),
    "progressive jpeg": encode(noise(0), progressive=True),
    "jpeg of RGB": encode(noise(0), keep_rgb=True),
    "bytes behind a jpeg": JPEG + bytes(99),
    "CMYK": CMYK,
    "YCCK": CMYK[:ADOBE] + b"\2" + CMYK[ADOBE + 1 :],
}
WHOLE = {kind: file for kind, (file, _) in EXACT.items()} | AS_PIL


def pixels(file):
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize("kind", EXACT)
def test_what_is_stored_is_what_the_file_shows(kind):
    file, expected = EXACT[kind]
    stored = picture_files.to_stored(file)
    # PIL rounds what is half transparent in its own way.
    within = 1 if "alpha" in kind else 0
    shown = pixels(stored).astype(int)
    assert shown.shape == expected.shape and np.abs(shown - expected).max() <= within
    opened = Image.open(io.BytesIO(stored))
    assert opened.format in ("JPEG", "PNG") and opened.mode in ("L", "RGB")
    assert stored.startswith(b"\xff\xd8") or stored[24] == 8


@pytest.mark.parametrize("kind", AS_PIL)
def test_what_pil_knows_is_stored_as_pil_shows_it(kind):
    shown = pixels(picture_files.to_stored(AS_PIL[kind]))
    opened = Image.open(io.BytesIO(AS_PIL[kind]))
    mode = "L" if opened.mode == "L" else "RGB"
    np.testing.assert_array_equal(shown, np.asarray(opened.convert(mode)))
    if kind in SEVERAL:
        assert np.abs(shown.astype(int) - np.asarray(FRAMES[0])).mean() < 9


def test_what_needs_no_change_is_stored_byte_for_byte():
    for kind in ("jpeg", "gray jpeg", "progressive jpeg", "bytes behind a jpeg"):
        assert picture_files.to_stored(AS_PIL[kind]) == AS_PIL[kind], kind
    for kind in ("gray", "colour", "odd metadata", "jpeg, orientation 1"):
        assert picture_files.to_stored(EXACT[kind][0]) == EXACT[kind][0], kind


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    """A folder with a file of every kind, whatever its name says of the format."""
    place = tmp_path_factory.mktemp("all kinds")
    for number, file in enumerate(WHOLE.values()):
        (place / f"{number:03}.jpg").write_bytes(file)
    return place


@pytest.mark.parametrize("resampler", decoding.RESAMPLERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_both_ways_in_give_the_same_pixels(all_kinds, monkeypatch, channels, resampler):
    place = all_kinds.with_name("tfds of all kinds")
    monkeypatch.setattr(constants, "DATA_DIR", str(place))
    recipe = {**RECIPE, "channels": channels, "resampler": resampler}
    splits = cache.load("folder", all_kinds, **recipe).splits
    with folder_files.open_source(all_kinds) as source:
        names = [
            name
            for split in splits
            for name in source.names
            if cache.pictures_folder.split_of(name) == split
        ]
    trained = np.concatenate([split.images for split in splits.values()])
    given = read_pictures([all_kinds / name for name in names], recipe)
    assert len(given) == len(WHOLE) and given.std() > 20
    for name, ours, theirs in zip(names, given, trained, strict=True):
        np.testing.assert_array_equal(ours, theirs, [*WHOLE][int(name[:3])])


def flipped(file, place):
    return file[:place] + bytes([file[place] ^ 1]) + file[place + 1 :]


def huge(width):
    """A PNG of a few bytes that says it is as high as wide."""
    small = png(GRAY[:1, :1])
    header = struct.pack(">IIBBBBB", width, width, 8, 0, 0, 0, 0)
    return small[:8] + chunk(b"IHDR", header) + small[33:]


COLOUR_PNG = encode(noise(1), "png")
WEBP, BMP = encode(noise(1), "webp"), encode(noise(1), "bmp")
TURNED = EXACT["jpeg, orientation 6"][0]
NONE = "none of JPEG, PNG, WEBP, BMP, or damaged at its start"
DAMAGED = {
    "nothing": (b"", "empty"),
    "text": (b"hello " * 30, NONE),
    "gif": (encode(noise(1), "gif"), NONE),
    "tiff": (encode(noise(1), "tiff"), NONE),
    "png, no pixels": (png(GRAY[:, :0]), NONE),
    "jpeg, cut": (JPEG[: len(JPEG) // 2], "Truncated File Read"),
    "jpeg, cut by two": (JPEG[:-2], "Premature end of JPEG file"),
    "jpeg, damaged inside": (JPEG[:600] + bytes(100) + JPEG[700:], ""),
    "jpeg, turned and damaged": (TURNED[:-150] + bytes(100) + TURNED[-50:], ""),
    "png, cut": (COLOUR_PNG[:-40], ""),
    "png, without its end": (COLOUR_PNG[:-12], "truncated PNG file"),
    "png, flipped": (flipped(COLOUR_PNG, 90), "checksum"),
    "png, text flipped": (
        flipped(put_in(COLOUR_PNG, b"tEXt", b"a\0b"), 43),
        NONE,
    ),
    "png, its header second": (
        COLOUR_PNG[:8] + chunk(b"prVt", b"") + COLOUR_PNG[8:],
        "a PNG that does not begin with its header",
    ),
    "webp, cut": (WEBP[:-20], ""),
    "bmp, cut": (BMP[:-100], ""),
    "png of gigapixels": (huge(40_000), "1600000000 pixels"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_both_ways_in_refuse_what_is_damaged_in_the_same_words(tmp_path, kind):
    file, expected = DAMAGED[kind]
    path = tmp_path / "a.jpg"
    path.write_bytes(file)
    with folder_files.open_source(tmp_path) as source:
        read, stored, problem = folder_files.read_picture(source, "a.jpg")
    assert read == stored == b"" and problem and expected in problem
    assert problem.isprintable() and "object at 0x" not in problem
    with pytest.raises(UserError) as caught:
        read_pictures([str(path)], RECIPE)
    assert str(caught.value) == f"{path} is no picture ({problem})"


def test_large_pictures_are_taken_up_to_pils_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(COLOUR_PNG)
    expected = read_pictures([path], RECIPE)
    for pixels_allowed, taken in {900: True, 500: False}.items():
        # Of 40 x 30 and more than that it warns, and gives up at twice as many.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels_allowed)
        with folder_files.open_source(tmp_path) as source:
            _, stored, problem = folder_files.read_picture(source, "a.png")
        if taken:
            assert stored == COLOUR_PNG and problem is None
            np.testing.assert_array_equal(read_pictures([path], RECIPE), expected)
        else:
            assert "1200 pixels" in str(problem)
            with pytest.raises(UserError, match="a.png is no picture .*1200 pixels"):
                read_pictures([path], RECIPE)


def test_what_is_no_file_is_refused_unread(tmp_path):
    os_error = "No such file or directory"
    for path, reason in {
        tmp_path: "a folder, or something else that is no file",
        pathlib.Path("/dev/zero"): "a folder, or something else that is no file",
        tmp_path / "gone.jpg": os_error,
    }.items():
        with pytest.raises(UserError, match=f"{path} is no picture .*{reason}"):
            read_pictures([path], RECIPE)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(zips.LARGEST + 1)
    with pytest.raises(UserError, match="huge.png has 268435457 bytes"):
        read_pictures([tmp_path / "huge.png"], RECIPE)


def test_names_that_do_not_print_are_escaped(tmp_path, capsys):
    path = tmp_path / "line\nend \udce9.jpg"
    path.write_bytes(JPEG)
    read_pictures([path], RECIPE)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and r"line\nend \udce9.jpg'" in said
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"line\\nend \\udce9.jpg' is no picture"):
        read_pictures([path], RECIPE)
