"""attributes.csv: what is taken, and what is refused, all of it at once."""

import codecs
import pathlib
import unicodedata

import pytest

from vae_jax.data import folder_files
from vae_jax.data.attribute_file import read_attributes
from vae_jax.errors import UserError

PICTURES = [f"{number:03}.jpg" for number in range(40)]
LINES = ["file_name,Smiling,Male"] + [
    f"{name},{number % 2},{number // 2 % 2}" for number, name in enumerate(PICTURES)
]
CSV = "\n".join(LINES) + "\n"
NFD = unicodedata.normalize("NFD", "josé.jpg")


def source(content, pictures=PICTURES, passed_over=None):
    file = content if isinstance(content, bytes) else content.encode()
    return folder_files.Source(
        pathlib.Path("faces"),
        dict.fromkeys([*pictures, "attributes.csv"], (0, 0)),
        {"attributes.csv": file}.__getitem__,
        passed_over or {},
    )


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        read_attributes(source(*arguments))
    message = str(caught.value)
    assert message.startswith("faces/attributes.csv") and message.isprintable()
    return message.removeprefix("faces/")


def replaced(old, new):
    assert old in CSV
    return CSV.replace(old, new, 1)


ALLOWED = "allowed are 0, 1, -1, true, false"
FAULTS = {
    "no such picture": (
        replaced("004.jpg", "400.jpg"),
        "attributes.csv:6: there is no picture '400.jpg'; "
        "attributes.csv has no row for 1 of 40 pictures: '004.jpg'",
    ),
    "itself": (
        CSV + "attributes.csv,0,0\n",
        "attributes.csv:42: there is no picture 'attributes.csv'",
    ),
    "no name": (CSV + ",0,0\n", "attributes.csv:42: there is no picture ''"),
    "missing rows": (
        "\n".join(LINES[:-5]),
        "attributes.csv has no row for 5 of 40 pictures: '035.jpg', '036.jpg', "
        "'037.jpg', ...",
    ),
    "twice": (
        CSV + "./002.jpg,1,0\n",
        "attributes.csv:42: './002.jpg' is listed twice, first in line 4",
    ),
    "no bit": (
        replaced("004.jpg,0,0", "004.jpg,2,yes\n"),
        f"attributes.csv:6: Smiling is '2'; {ALLOWED}; "
        f"attributes.csv:6: Male is 'yes'; {ALLOWED}",
    ),
    "no value": (
        replaced("004.jpg,0,0", "004.jpg,,0"),
        f"attributes.csv:6: Smiling is ''; {ALLOWED}",
    ),
    "too few": (
        replaced("004.jpg,0,0", "004.jpg,0"),
        "attributes.csv:6: got 2 value(s), expected 3 as in the header",
    ),
    "too many": (
        replaced("004.jpg,0,0", "004.jpg,0,0,1"),
        "attributes.csv:6: got 4 value(s), expected 3 as in the header",
    ),
    "no file_name": (
        replaced("file_name", "image"),
        "attributes.csv:1: the columns are 'image,Smiling,Male'; allowed are "
        "file_name, once, and names of attributes, between commas",
    ),
    "semicolons": (
        CSV.replace(",", ";"),
        "attributes.csv:1: the columns are separated by ';'; allowed is ','",
    ),
    "tabs": (
        CSV.replace(",", "\t"),
        r"attributes.csv:1: the columns are separated by '\t'; allowed is ','",
    ),
    "empty": (
        "",
        "attributes.csv:1: the columns are ''; allowed are file_name, once, and names "
        "of attributes, between commas",
    ),
    "open quote": (
        replaced("004", '"004'),
        "attributes.csv:6: no CSV, with commas between the columns: unexpected end of "
        "data",
    ),
    "latin-1": (
        CSV.encode() + "ü.jpg,0,0\n".encode("latin-1"),
        "attributes.csv:42: no UTF-8 (invalid start byte); allowed is a CSV in UTF-8",
    ),
    "UTF-16": (
        codecs.BOM_UTF16_LE + CSV.encode("utf-16-le"),
        "attributes.csv is UTF-16, or no text; allowed is a CSV in UTF-8",
    ),
    "UTF-16 without a mark": (
        CSV.encode("utf-16-be"),
        "attributes.csv is UTF-16, or no text; allowed is a CSV in UTF-8",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_wrong_is_named_with_line_and_value(case):
    content, expected = FAULTS[case]
    assert refusal(content) == expected


def test_all_that_is_wrong_is_told_at_once_up_to_ten():
    content = replaced("Male", "a/b").replace("004.jpg", "400.jpg")
    content = content.replace("007.jpg,1,1", "007.jpg,1")
    told = refusal(content).split("; attributes.csv")
    assert [each.removeprefix("attributes.csv").split(":")[1] for each in told[:3]] == [
        "1",
        "6",
        "9",
    ]
    assert len(told) == 4 and "no row for 1 of 40" in told[3]
    told = refusal(CSV.replace(",1", ",2"))
    assert told.count("allowed are") == 10 and told.endswith("; and 30 more")


BAD_NAMES = {
    "a/../../evil": r"has '/'; not allowed are / \ , = and signs that do not print",
    r"a\b": r"has '\\'; not",
    '"a,b"': "has ','; not",
    "A=0.5": "has '='; not",
    "a\tb": r"has '\t'; not",
    '"a\nb"': r"has '\n'; not",
    "Smil\u200bing": r"has '\u200b'; not",
    "\ufeffYoung": r"has '\ufeff'; not",
    "": "has no name",
    "  ": "has no name",
    ".": "has dots alone",
    "..": "has dots alone",
    "x" * 101: "has 101 characters, 101 bytes in UTF-8; allowed are 100 and 200",
    "顔" * 67: "has 67 characters, 201 bytes in UTF-8; allowed are 100 and 200",
    "Smiling": "is 'Smiling' of column 2 again",
    " Smiling ": "is 'Smiling' of column 2 again",
    "smiling": "is 'Smiling' of column 2 again",
    "File_Name": "is 'file_name' of column 1 again",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_cannot_be_flags_and_files_are_refused(name):
    message = refusal(replaced("Male", name))
    assert message.startswith("attributes.csv:1: the name '")
    assert f"of column 3 {BAD_NAMES[name]}" in message


def test_names_alike_but_for_their_accents_are_refused():
    # The same letter, composed and decomposed.
    content = replaced("Smiling,Male", "Caf\u00e9,Cafe\u0301")
    assert r"'Caf\xe9' of column 3 is 'Caf\xe9' of column 2 again" in refusal(content)


def test_what_spreadsheets_make_of_it_is_taken():
    names, expected = read_attributes(source(CSV))
    assert names == ("Smiling", "Male")
    assert expected["001.jpg"] == [True, False]
    rows = "\r\n".join(LINES)
    for content in (
        "\ufeff" + rows + "\r\n,,\r\n\r\n",
        CSV.replace("\n", "\r"),
        CSV.replace(",", " , ").replace("file_name", "\n file_name"),
        CSV.replace(",1", ",TRUE").replace(",0", ",False"),
        "".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in LINES),
    ):
        assert read_attributes(source(content)) == (names, expected)


NAMES = ["josé.jpg", "a,b.jpg", 'say "hi".jpg', " x.jpg ", "d/e f.jpg", "line\n.jpg"]
WRITTEN = {
    NFD: "josé.jpg",
    '"a,b.jpg"': "a,b.jpg",
    '"say ""hi"".jpg"': 'say "hi".jpg',
    "  x.jpg ": " x.jpg ",
    r".\d\e f.jpg": "d/e f.jpg",
    ".//d/./e f.jpg": "d/e f.jpg",
    '"line\n.jpg"': "line\n.jpg",
}


@pytest.mark.parametrize("written", WRITTEN)
def test_pictures_are_found_however_their_names_are_written(written):
    rows = {name: '"' + name.replace('"', '""') + '"' for name in NAMES}
    rows[WRITTEN[written]] = written
    content = "file_name,A\n" + "".join(
        f"{row},{int(name == WRITTEN[written])}\n" for name, row in rows.items()
    )
    _, values = read_attributes(source(content, NAMES))
    assert values == {name: [name == WRITTEN[written]] for name in NAMES}


def test_a_name_for_several_pictures_is_refused_and_exact_ones_are_not():
    pictures = ["x.jpg", " x.jpg"]
    _, values = read_attributes(source("file_name,A\nx.jpg,1\n x.jpg,0\n", pictures))
    assert values == {"x.jpg": [True], " x.jpg": [False]}
    message = refusal("file_name,A\nx.jpg,1\n./x.jpg,0\n", pictures)
    assert "attributes.csv:3: './x.jpg' may be each of ' x.jpg', 'x.jpg'" in message


def test_names_that_look_alike_are_shown_apart():
    message = refusal(replaced("004.jpg", "004\u200b.jpg"))
    assert r"no picture '004\u200b.jpg'" in message
    # A Cyrillic letter.
    message = refusal("file_name,A\n\u0430.jpg,1\n", ["a.jpg"])
    assert r"no picture '\u0430.jpg'" in message and "pictures: 'a.jpg'" in message


def test_the_name_by_which_a_linked_picture_is_read_is_told():
    links = {"b": "a", "c.jpg": "001.jpg"}
    message = refusal(CSV + "b/x.jpg,0,0\nc.jpg,0,0\n", PICTURES, links)
    assert "'b/x.jpg', for 'b' is a link to what is read as 'a'" in message
    assert "'c.jpg', for 'c.jpg' is a link to what is read as '001.jpg'" in message
