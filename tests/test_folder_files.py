"""What is found in a folder or a zip: links, and names of all kinds."""

import os
import pathlib
import unicodedata
import zipfile

import pytest

from vae_jax.data import folder, folder_files
from vae_jax.errors import UserError

NFC = "josé 顔.jpg"
NFD = unicodedata.normalize("NFD", NFC)


def write(path, *names):
    """Files that hold their own names."""
    for name in names:
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(os.fsencode(name))
    return path


def listed(path):
    """Returns what every file holds, by name, and the links passed over."""
    with folder_files.open_source(path) as source:
        found = {name: source.read(name).decode() for name in source.names}
        return found, dict(source.passed_over)


def refusal(path):
    with pytest.raises(UserError) as caught:
        listed(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture
def faces(tmp_path):
    return write(tmp_path / "faces", "a.jpg", "deep/b.jpg")


@pytest.fixture
def more(tmp_path):
    return write(tmp_path / "more", "c.jpg", "sub/d.jpg", ".hidden/e.jpg")


OWN = {"a.jpg": "a.jpg", "deep/b.jpg": "deep/b.jpg"}


def test_linked_folders_are_looked_into(faces, more, tmp_path):
    (faces / "deep" / "more").symlink_to(more)
    found, passed_over = listed(faces)
    assert found == OWN | {
        "deep/more/c.jpg": "c.jpg",
        "deep/more/sub/d.jpg": "sub/d.jpg",
    }
    assert passed_over == {}
    # Of links alone, one of them to the next.
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "x").symlink_to(faces)
    assert set(listed(tmp_path / "alone")[0]) == {f"x/{name}" for name in found}
    (tmp_path / "root").symlink_to(faces)
    assert listed(tmp_path / "root") == (found, {})


@pytest.mark.parametrize("to", [".", "../faces/deep", "..", "/"])
def test_a_link_to_a_folder_above_or_read_already_ends(faces, more, to):
    (faces / "z").symlink_to(to)
    (faces / "deep" / "up").symlink_to(faces)
    # From within what a link leads to.
    (faces / "more").symlink_to(more)
    (more / "sub" / "back").symlink_to(faces)
    (more / "sub" / "up").symlink_to(more)
    found, passed_over = listed(faces)
    assert set(found) == {*OWN, "more/c.jpg", "more/sub/d.jpg"}
    assert set(passed_over) == {"z", "deep/up", "more/sub/back", "more/sub/up"}


def test_a_folder_linked_twice_is_read_once(faces, more):
    # Whichever comes first by its name: that without a link, then the first link.
    (faces / "0").symlink_to(faces / "deep")
    (faces / "1").symlink_to(more / "sub")
    (faces / "2").symlink_to(more)
    (faces / "3").symlink_to(more)
    found, passed_over = listed(faces)
    assert found == OWN | {"1/d.jpg": "sub/d.jpg", "2/c.jpg": "c.jpg"}
    assert passed_over == {"0": "deep", "2/sub": "1", "3": "2"}


def test_a_linked_file_is_read_once(faces, more):
    (faces / "0.jpg").symlink_to("a.jpg")
    (faces / "1.jpg").symlink_to(more / "c.jpg")
    (faces / "2.jpg").symlink_to(more / "c.jpg")
    (faces / "3.txt").symlink_to(more / "c.jpg")
    # Another file of the same content.
    os.link(faces / "a.jpg", faces / "4.jpg")
    found, passed_over = listed(faces)
    assert found == OWN | {"1.jpg": "c.jpg", "4.jpg": "a.jpg"}
    assert list(passed_over) == ["0.jpg", "2.jpg"] and passed_over["2.jpg"] == "1.jpg"


def test_links_passed_over_are_counted_aloud(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        folder_files, "read_picture", lambda source, name: (b"x", b"x", None)
    )
    path = write(tmp_path / "faces", *(f"{number}.jpg" for number in range(50)))
    (path / "a\nb").symlink_to(path)
    (path / "c.jpg").symlink_to("1.jpg")
    folder.prepare(path, tmp_path / "tfds")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{path}: 50 pictures (train ")
    assert said[1:] == [
        "2 link(s) passed over, to what is read under another name: 'a\\nb', c.jpg"
    ]


def test_links_that_lead_nowhere_are_named(faces):
    for name, to in {
        "gone.jpg": "nothing",
        "disk": "/nowhere/pictures",
        "round.png": "round.png",
        "deep/through": "../a.jpg/x",
        ".hidden.jpg": "nothing",
    }.items():
        (faces / name).symlink_to(to)
    assert refusal(faces) == (
        f"{faces} holds 4 link(s) that lead nowhere: disk, gone.jpg, round.png, ...; "
        "mend or remove them"
    )


NAMES = ["a,b=c.jpg", "CON.jpg", 'x:y?"*<>|.png', "back\\slash.jpg", "line\nend.jpg"]


def test_names_of_all_kinds_are_read(tmp_path):
    long = [f"{'x' * 251}.jpg", f"{'é' * 125}.webp"]
    path = write(tmp_path / "faces", *NAMES, *long)
    assert set(listed(path)[0]) == {*NAMES, *long}


def test_names_are_the_same_wherever_the_files_were_copied(tmp_path):
    for form in (NFC, NFD):
        path = write(tmp_path / str(len(form)), f"é/{form}")
        assert listed(path)[0] == {f"é/{NFC}": f"é/{form}"}
        with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
            archive.writestr(f"é/{form}", form)
        assert listed(path.with_suffix(".zip"))[0] == {f"é/{NFC}": form}
        assert folder.split_of(form) == folder.split_of(NFC)
    letters = [chr(code) for code in range(0xC0, 0x17F)]
    assert len({folder.split_of(letter) for letter in letters}) == 3
    for letter in letters:
        plain = unicodedata.normalize("NFC", letter)
        assert folder.split_of(unicodedata.normalize("NFD", plain)) == (
            folder.split_of(plain)
        )


def test_two_names_that_are_one_are_shown_apart(tmp_path):
    path = write(tmp_path / "faces", NFC, NFD)
    message = refusal(path)
    assert message.startswith(f"{path}: ") and message.endswith("too; rename one")
    assert ascii(NFC) in message and ascii(NFD) in message
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr(NFC, "x")
        archive.writestr(NFD, "x")
    message = refusal(tmp_path / "faces.zip")
    assert ascii(NFC) in message and ascii(NFD) in message


def test_a_zip_of_macos_has_the_names_of_the_folder(tmp_path):
    # It marks no name as UTF-8.
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NFD, "x")
        archive.writestr("plain.jpg", "y")
    data = path.read_bytes()
    for sign, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = data.index(sign) + offset
        assert data[place + 1] == 8
        data = data[: place + 1] + b"\0" + data[place + 2 :]
    path.write_bytes(data)
    assert listed(path)[0] == {NFC: "x", "plain.jpg": "y"}
    # As DOS has it.
    path.write_bytes(data.replace(NFD.encode(), b"\x82" * len(NFD.encode())))
    with folder_files.open_source(path) as source:
        assert source.names == ["plain.jpg"]
    accented = b"\x82" * (len(NFD.encode()) - 4) + b".jpg"
    path.write_bytes(data.replace(NFD.encode(), accented))
    assert "é" * (len(accented) - 4) + ".jpg" in listed(path)[0]


def test_errors_keep_to_one_line_whatever_the_names(tmp_path):
    for number, names in enumerate(
        [
            ["caf\udce9.jpg"],
            ["x\ny/attributes.csv", "a.jpg"],
            [NFC, NFD],
            ["notes.txt"],
        ]
    ):
        path = write(tmp_path / f"line\nend {number}", *names)
        assert f"line\\nend {number}'" in refusal(path)
    with pytest.raises(UserError) as caught:
        folder.prepare(write(tmp_path / "two\nlines", "a.jpg"), tmp_path / "tfds")
    assert "two\\nlines' holds 1 picture(s)" in str(caught.value)
    huge = pathlib.Path(write(tmp_path / "huge", "x\ny.jpg") / "x\ny.jpg")
    os.truncate(huge, 2**28 + 1)
    assert "x\\ny.jpg' has 268435457 bytes" in refusal(tmp_path / "huge")
