"""report.html and the page of several runs: what stands in them, as valid HTML."""

import base64
import dataclasses
import functools
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import compare
from vae_jax import run as run_lib
from vae_jax.commands import edits, reconstructions, recorded, report, samples
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.report import charts, page, words

VOID = {"meta", "img", "input", "br", "hr", "link"}
# In bytes.
LARGEST_PAGE = 5_000_000


class Checked(HTMLParser):
    """Reads a page, and fails where it is no HTML that all readers take alike.

    Attributes:
      tags: each start tag and its attributes.
      text: by the id of the section, what is to be read there.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self._open, self._section = [], {"": ""}, [], ""
        self.feed(text)
        self.close()
        assert not self._open, self._open
        ids = [a["id"] for _, a in self.tags if "id" in a]
        assert len(ids) == len(set(ids))
        for tag, attributes in self.tags:
            if tag == "label":
                assert attributes["for"] in ids
            if tag == "a":
                assert attributes["href"].removeprefix("#") in ids
        levels = [int(tag[1]) for tag, _ in self.tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b <= a + 1 for a, b in zip(levels[:-1], levels[1:], strict=True))

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = str(dict(attrs)["id"])
            self.text[self._section] = ""
        if tag == "p":
            assert "p" not in self._open
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        raise AssertionError(f"<{tag}/> ends nothing in HTML")

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, (tag, self._open)

    def handle_data(self, data):
        assert "�" not in data
        if self._open and self._open[-1] not in ("script", "style"):
            self.text[self._section] += data

    def of(self, tag):
        return [attributes for each, attributes in self.tags if each == tag]

    def pictures(self):
        """Returns each picture that is embedded, by its alternative text."""
        found = {}
        for attributes in self.of("img"):
            kind, _, content = attributes["src"].partition(";base64,")
            assert kind in ("data:image/png", "data:image/jpeg")
            with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
                picture.load()
            assert len(attributes["alt"]) > 10
            found[attributes["alt"]] = picture
        return found


def checked(text):
    found = Checked(text)
    assert len(text.encode()) < LARGEST_PAGE
    assert text.startswith("<!DOCTYPE html>")
    for attribute in ("src", "href", "xlink:href", "srcset", "action"):
        for _, attributes in found.tags:
            value = attributes.get(attribute, "#")
            assert value.startswith(("#", "data:image/")), value
    assert not re.search(r"@import|url\(|https?://", text)
    assert not found.of("link") and not found.of("iframe")
    found.pictures()
    return found


KINDS = ("vae", "ae", "conv", "vq", "transformer", "classifier")
SECTIONS = {
    "vae": ["reconstructions", "samples", "metrics", "curves", "dimensions", "edits"],
    "classifier": ["metrics", "curves"],
}
SECTIONS |= dict.fromkeys(("ae", "conv"), SECTIONS["vae"])
SECTIONS |= dict.fromkeys(
    ("vq", "transformer"),
    ["reconstructions", "samples", "metrics", "curves", "edits", "codes"],
)


def test_a_model_of_ones_own_goes_by_its_name():
    assert recorded.kind_of("mine", "celeb_a") == "a mine of celeb_a"
    assert recorded.kind_of("ae", "celeb_a") == "an autoencoder of celeb_a"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_every_kind_of_run(small_runs, kind):
    run = small_runs(kind)
    path = report.write_report(run)
    assert path == run.workdir / "report.html"
    found = checked(path.read_text())
    sections = [a["id"] for a in found.of("section")]
    assert sections == SECTIONS[kind]
    assert [a["href"] for a in found.of("a")] == [f"#{name}" for name in sections]
    told = json.loads((run.workdir / "run.json").read_text())
    assert f"{told['num_parameters']:,}" in found.text[""]
    assert told["command"] in found.text[""]
    assert f"{run.step} of" in found.text[""]
    # Every slider has as many places as its films have frames.
    for films, slider in zip(
        [a for a in found.of("div") if "data-values" in a],
        found.of("input"),
        strict=True,
    ):
        assert int(slider["max"]) == len(json.loads(films["data-values"])) - 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "vq", "classifier"])
def test_the_values_are_those_of_eval_json(small_runs, kind):
    run = small_runs(kind)
    figures = json.loads((run.workdir / "eval.json").read_text())
    found = Checked(report.describe_run(run))
    cells = [a for a in found.of("td") if "data-value" in a]
    for name, value in figures["test"]["ema"].items():
        if isinstance(value, float) or name == "active_units":
            shown = [a["data-value"] for a in cells if a["data-metric"] == name]
            columns = (("test", "ema"), ("validation", "ema"), ("test", "raw"))
            expected = [figures[split][by][name] for split, by in columns]
            assert [float(x) for x in shown[:3]] == expected
            error = figures["test"]["ema"].get("standard_errors", {}).get(name)
            assert words.figure(value, error) in found.text["metrics"]
    for name, error in figures["test"]["ema"]["standard_errors"].items():
        assert f"± {error:.2g}" in found.text["metrics"], name
    known = {a["data-metric"] for a in cells}
    by_attribute = figures["test"]["ema"].get("accuracy_by_attribute", {})
    assert known >= {*by_attribute}


@pytest.mark.slow
def test_the_curves_are_those_of_the_log(small_runs):
    run = small_runs("vae")
    lines = (run.workdir / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    found = Checked(report.describe_run(run))
    shown = [json.loads(a["data-chart"]) for a in found.of("figure") if len(a) > 1]
    titles = re.findall(
        r"^(\w+) by step",
        "\n".join(a.get("aria-label", "") for a in found.of("svg")),
        re.MULTILINE,
    )
    by_title = dict(zip(titles, shown, strict=False))
    assert {"elbo", "loss", "kl", "mse"} <= by_title.keys()
    for curve, split in zip(
        by_title["elbo"]["curves"], ("train", "validation"), strict=True
    ):
        expected = [[x["step"], x["elbo"]] for x in lines if x["split"] == split]
        assert curve["points"] == expected


@pytest.mark.slow
def test_pictures_show_what_the_commands_draw(small_runs):
    run = small_runs("vae")
    pictures = Checked(report.describe_run(run)).pictures()
    found = reconstructions.reconstruct(run, 1)
    (strip,) = (
        p for alt, p in pictures.items() if alt.startswith("Validation image 0")
    )
    levels = np.asarray(strip, np.float32) / 255
    assert levels.shape == (16, 3 * 16, 3)
    beside = np.concatenate([found.originals[0], found.means[0]], axis=1)
    np.testing.assert_allclose(levels[:, :32, :1], beside, atol=0.51 / 255)
    (sheet,) = (p for alt, p in pictures.items() if "N(0, I)" in alt)
    first = np.asarray(sheet, np.float32)[1:17, 1:17, None] / 255
    drawn = samples.sample(run, "prior", 24, 0)
    np.testing.assert_allclose(first, drawn[0], atol=0.51 / 255)
    (film,) = (p for alt, p in pictures.items() if alt.endswith("more Smiling"))
    frames = np.asarray(film, np.float32) / 255
    found = edits.edit(run, {"Smiling": 1.0}, [-3.0, 3.0], num_images=4)
    for frame, column in ((0, 1), (12, 2)):
        expected = np.concatenate([*found.images[:, column]], axis=1)[..., 0]
        shown = frames[:, frame * 64 : frame * 64 + 64]
        # JPEGs are near, not equal.
        assert np.abs(shown - expected).mean() < 0.02


@pytest.mark.slow
def test_what_cannot_be_shown_is_left_out_and_the_page_says_why(small_runs, tmp_path):
    shutil.copytree(small_runs("vae").workdir, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    written["config"]["dataset"]["data_dir"] = str(tmp_path / "gone")
    written["config"]["dataset"]["name"] = written["dataset"]["name"] = "celeb_a"
    # Earlier programs did not write it down.
    del written["command"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(written))
    (tmp_path / "run" / "eval.json").unlink()
    found = checked(report.write_report(run_lib.load(tmp_path / "run")).read_text())
    sections = [a["id"] for a in found.of("section")]
    assert sections == ["samples", "curves", "left_out"]
    said = found.text["left_out"]
    assert "metrics: there is no eval.json; python -m vae_jax.main --mode=eval" in said
    for name in ("reconstructions", "dimensions", "edits"):
        assert re.search(rf"{name}: .* needs the pictures that the run", said)


@pytest.mark.slow
def test_an_evaluation_of_another_step_is_not_shown(small_runs):
    later = dataclasses.replace(small_runs("ae"), step=9)
    found = Checked(report.describe_run(later))
    assert "eval.json is of step 4, and the checkpoint of step 9" in " ".join(
        found.text["left_out"].split()
    )


@pytest.mark.slow
def test_an_evaluation_of_other_images_is_not_shown(small_runs):
    run = small_runs("ae")
    other = dataclasses.replace(run, recipe={**run.recipe, "fingerprint": "of others"})
    with pytest.raises(UserError, match="eval.json is of other pictures than the run"):
        recorded.evaluation_of(other)


OLDER = {"test": {"ema": {"step": 4, "loss": 1.0}}}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["{", "[]", '"\xff"', "", json.dumps(OLDER)])
def test_an_evaluation_that_is_damaged_or_older_is_named(small_runs, tmp_path, how):
    path = shutil.copytree(small_runs("ae").workdir, tmp_path / "run") / "eval.json"
    path.write_bytes(how.encode("latin-1"))
    run = run_lib.load(tmp_path / "run")
    with pytest.raises(UserError, match="eval.json is damaged or of an earlier") as e:
        recorded.metrics_of(run)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost",
    ["test.raw", "validation.ema.standard_errors", "sharpness.reconstructions.bands"],
)
def test_an_evaluation_that_lacks_a_part_is_named(small_runs, tmp_path, lost):
    path = shutil.copytree(small_runs("ae").workdir, tmp_path / "run") / "eval.json"
    report = json.loads(path.read_text())
    *before, last = lost.split(".")
    del functools.reduce(dict.__getitem__, before, report)[last]
    path.write_text(json.dumps(report))
    with pytest.raises(UserError, match=f"{path} is damaged .*{last}"):
        recorded.evaluation_of(run_lib.load(tmp_path / "run"))


def test_each_judge_has_a_table_of_its_own_and_guides_are_told():
    def report(judge, frechet, **more):
        judged = {"workdir": judge, "reconstructions": {"judge_frechet": frechet}}
        block = {"loss": 1.0, "standard_errors": {}}
        return {"test": {"ema": block}, "judge": judged | more}

    reports = {
        "one": report("runs/judge", 1.0, is_guide=True),
        "two": report("runs/judge", 2.0),
        "three": report("runs/other", 3.0),
    }
    _, *judged = compare.tables_together(reports)
    ours, other = judged
    assert ours.title == "Judge runs/judge on reconstructions"
    assert ours.columns == ["one", "two"] and other.columns == ["three"]
    assert "guide of one, which" in ours.words and not other.words


def test_more_runs_than_colours_are_refused(tmp_path):
    with pytest.raises(UserError, match="the runs are 7; allowed are 6"):
        compare.main([str(tmp_path / str(number)) for number in range(7)])


@pytest.mark.slow
def test_a_run_without_labels_has_no_edits(small_runs):
    run = small_runs("ae")
    recipe = {**run.recipe, "attribute_names": []}
    found = Checked(report.describe_run(dataclasses.replace(run, recipe=recipe)))
    assert "edits" not in [a["id"] for a in found.of("section")]


@pytest.mark.slow
def test_names_of_any_kind_are_text(small_runs, tmp_path):
    evil = "<img src=x onerror='alert(1)'>"
    shutil.copytree(small_runs("ae").workdir, tmp_path / evil)
    found = checked(report.describe_run(run_lib.load(tmp_path / evil)))
    assert evil in found.text[""]


@pytest.mark.slow
def test_runs_side_by_side(small_runs, tmp_path, capsys):
    given = [str(small_runs(kind).workdir) for kind in ("vae", "ae", "classifier")]
    compare.main([*given, f"--out={tmp_path / 'all.html'}"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "all.html")
    found = checked((tmp_path / "all.html").read_text())
    sections = [a["id"] for a in found.of("section")]
    assert sections == ["metrics", "curves", "faces", "samples"]
    figures = [
        json.loads((small_runs(kind).workdir / "eval.json").read_text())["test"]["ema"]
        for kind in ("vae", "ae", "classifier")
    ]
    for name in ("loss", "mse", "accuracy"):
        values = [
            float(a["data-value"])
            for a in found.of("td")
            if a.get("data-metric") == name
        ]
        assert values == [each[name] for each in figures if name in each]
    # The settings in which they differ, and no others.
    assert "model.name" in found.text[""] and "train.batch_size" not in found.text[""]
    strips = [p for alt, p in found.pictures().items() if alt.startswith("Validation")]
    assert len(strips) == 10 and strips[0].size == (3 * 16, 16)
    beside = np.concatenate(
        [
            reconstructions.reconstruct(small_runs("vae"), 1).originals[0],
            *(
                reconstructions.reconstruct(small_runs(k), 1).means[0]
                for k in ("vae", "ae")
            ),
        ],
        axis=1,
    )
    levels = np.asarray(strips[0], np.float32)[..., None] / 255
    np.testing.assert_allclose(levels, beside, atol=0.51 / 255)
    shown = [json.loads(a["data-chart"]) for a in found.of("figure") if len(a) > 1]
    together = [[c["label"] for c in chart["curves"]] for chart in shown]
    assert given in together and given[:2] in together
    # A run has its colour wherever it is drawn.
    drawn = [a["class"] for a in found.of("polyline")]
    expected = [
        f"curve c{given.index(label)}" for labels in together for label in labels
    ]
    assert drawn == expected
    # What one run alone has is no comparison.
    assert all(len(labels) > 1 for labels in together)


@pytest.mark.slow
def test_faces_of_different_kinds_are_not_compared(small_runs):
    later = dataclasses.replace(small_runs("conv"), step=9)
    found = Checked(compare.compare([small_runs("vae"), later]))
    assert f"metrics of {later.workdir}: eval.json is of" in found.text["left_out"]
    assert "dataset.channels 1; the run in" in found.text["left_out"]
    assert "samples" in found.text
    with pytest.raises(UserError, match="allowed are two to 6, each once"):
        compare.main([str(small_runs("vae").workdir)] * 2)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-19_000.0, -16_000.0), (0.0, 1e-9), (0.0041, 0.0042), (-1.0, 3e7)],
)
def test_marks_on_an_axis_are_few_round_and_within(low, high):
    ticks = charts._ticks(low, high)
    assert 3 <= len(ticks) <= 6
    slack = 1e-6 * (high - low)
    assert low - slack <= min(ticks) and max(ticks) <= high + slack
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert len(set(map("{:.6g}".format, ticks))) == len(ticks)


def test_a_long_curve_is_thinned_and_keeps_its_end():
    points = [(step, float(step)) for step in range(10_001)]
    (curve,) = json.loads(charts.chart("loss", {"a": points}, (0, 10_000)).data)[
        "curves"
    ]
    kept = curve["points"]
    assert len(kept) <= charts.MOST_POINTS and kept[-1] == [10_000, 10_000.0]
    assert kept == sorted(kept) and kept[0][0] < 30


def test_frames_of_large_images_are_shrunk():
    frames = np.zeros((3, 2, 256, 256, 3), np.float32)
    frames[1, 0, ::2] = 1
    found = page.film(frames, "", "Three frames of two images")
    content = base64.b64decode(found.picture.source.partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        levels = np.asarray(picture)
    assert levels.shape == (128, 3 * 2 * 128, 3) and found.frames == 3
    assert abs(levels[:, 256:384].mean() - 127.5) < 2 and levels[:, :256].max() < 9


def test_every_model_has_a_word():
    assert recorded.KINDS.keys() == build.MODELS.keys()


def test_every_metric_that_is_logged_has_a_meaning():
    golden = json.loads(Path(__file__).with_name("golden.json").read_text())
    logged = {name for updates in golden.values() for each in updates for name in each}
    assert {"matching", "kl_layer_1"} <= logged
    of_flows = {"normal_kl", "normal_bits_per_dim", "saved"}
    assert not [n for n in logged | of_flows if not words.meaning(n).words]
    assert words.meaning("kl_layer_12").words == (
        "How much layer 12 of the code says of an image."
    )


def test_every_metric_that_is_explained_has_a_sentence():
    for name, known in words.METRICS.items():
        assert known.words.endswith(".") and known.words[0].isupper(), name
        assert known.better in ("", "higher", "lower")


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (8478.65, 37.2, "8479 ± 37"),
        (27.0007, 0.082, "27.001 ± 0.082"),
        (0.00239077, 5e-5, "0.002391 ± 0.000050"),
        (-17310.4, 412.0, "-17310 ± 412"),
        (5.5, 0.0, "5.5 ± 0"),
        (9.50644, None, "9.50644"),
        (3, None, "3"),
    ],
)
def test_a_figure_has_the_digits_that_its_error_lets_it_have(value, error, told):
    assert words.figure(value, error) == told


def test_runs_whose_metrics_are_of_other_kinds_are_told(small_runs):
    vae, conv = small_runs("vae"), small_runs("conv")
    assert "differ in model.likelihood" in compare.not_comparable([vae, conv])
    assert compare.not_comparable([vae, vae]) == ""
    assert "bits_per_dim" in compare.compare([vae, conv])
