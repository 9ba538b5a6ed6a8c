"""The explorer without its page: looks, pictures, commands, steps there and back."""

import dataclasses
import json
import shlex
import socket
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import new_tiny_config
from PIL import Image

from vae_jax import run as run_lib
from vae_jax.commands import edits, interpolations, kept_codes, samples
from vae_jax.errors import UserError
from vae_jax.exploration import interpolation, sampling
from vae_jax.exploration.densities import Density
from vae_jax.explorer import __main__ as program
from vae_jax.explorer import controls, page, server
from vae_jax.explorer.looks import Face, Look
from vae_jax.explorer.session import MOST_STEPS, Session
from vae_jax.explorer.source import first_look, open_source, plain
from vae_jax.export import saving
from vae_jax.report import grids

pytestmark = pytest.mark.slow
KINDS = ("vae", "ae", "conv", "dial", "transformer", "stack")


@pytest.fixture(scope="module")
def workdirs(small_runs, data_dir, tmp_path_factory):
    """Returns a function that gives the workdir of a run of each kind."""
    folder = tmp_path_factory.mktemp("explored")

    def workdir_of(kind):
        if kind.startswith("exported"):
            if not (folder / kind).exists():
                of = "dial" if kind == "exported dial" else "vae"
                saving.export(small_runs(of), folder / kind)
            return folder / kind
        if kind != "stack":
            return small_runs(kind).workdir
        if not (folder / kind).exists():
            config = new_tiny_config(data_dir)
            config.model.name, config.model.network = "hierarchical", "ladder"
            config.model.hidden_dim = 512
            config.model.layers, config.model.widths = "2:1,4:2", "2:6,4:4"
            config.model.latent_dim, config.train.num_steps = 3, 4
            config.model.likelihood = "logistic_mixture"
            kept_codes.keep(run_lib.train(config, folder / kind))
        return folder / kind

    return workdir_of


@pytest.fixture(scope="module")
def sources(workdirs):
    """Returns a function that gives the source of each kind."""
    opened = {}

    def source_of(kind):
        if kind not in opened:
            opened[kind] = open_source(workdirs(kind))
        return opened[kind]

    return source_of


@pytest.fixture
def portrait(tmp_path):
    """A picture file whose name needs care in a shell."""
    path = tmp_path / "it's me, 1.png"
    levels = np.random.default_rng(3).integers(0, 256, (50, 40, 3), np.uint8)
    Image.fromarray(levels).save(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_slider_shows_what_an_edit_of_that_alpha_does(sources, workdirs, kind):
    source, run = sources(kind), run_lib.load(workdirs(kind))
    images = run.dataset.splits["test"].images[2:3]
    face = plain(source, source.face("test", 2))
    assert source.directions.keys() >= {"deconfounded", "difference", "notebook"}
    for estimator in source.directions:
        text = json.dumps(
            {
                "attribute Smiling": "1.35",
                "estimator": estimator,
                "sampler": face.sampler,
            }
        )
        look = controls.to_look(source, face, text)
        edited = edits.edit(
            run, {"Smiling": 1.0}, [1.35], estimator=estimator, pictures=images
        )
        expected = grids.to_levels(edited.images[0, 1])
        np.testing.assert_array_equal(source.picture(look), expected)


def test_several_attributes_add_up_as_in_an_edit(sources, workdirs):
    source, run = sources("vae"), run_lib.load(workdirs("vae"))
    weights = {"Bangs": -0.5, "Smiling": 2.0}
    look = plain(source, source.face("test", 0))
    look = dataclasses.replace(look, attributes=weights)
    images = run.dataset.splits["test"].images[:1]
    edited = edits.edit(run, weights, [1.0], pictures=images).images[0, 1]
    np.testing.assert_array_equal(source.picture(look), grids.to_levels(edited))


def test_the_dial_is_that_of_an_edit(sources, workdirs):
    source, run = sources("dial"), run_lib.load(workdirs("dial"))
    text = json.dumps(
        {
            "realism": "0.5",
            "attribute Smiling": "1",
            "estimator": "difference",
            "sampler": "gaussian",
        }
    )
    look = controls.to_look(source, plain(source, source.face("test", 2)), text)
    images = run.dataset.splits["test"].images[2:3]

    def edited(realism):
        turned = dataclasses.replace(run, realism=realism)
        found = edits.edit(
            turned, {"Smiling": 1.0}, [1.0], estimator="difference", pictures=images
        )
        return grids.to_levels(found.images[0, 1])

    np.testing.assert_array_equal(source.picture(look), edited(0.5))
    assert (source.picture(look) != edited(0.0)).any()
    assert 'data-name="realism"' in controls.markup(source)
    exported = sources("exported dial")
    assert 'data-name="realism"' in controls.markup(exported)
    begun = plain(exported, exported.face("seed", 0))
    turned = dataclasses.replace(begun, realism=1.0)
    assert (exported.picture(begun) != exported.picture(turned)).any()
    assert 'data-name="realism"' not in controls.markup(sources("vae"))


def test_the_way_to_a_second_face_is_that_of_interpolate(sources, workdirs):
    source, run = sources("vae"), run_lib.load(workdirs("vae"))
    look = plain(source, source.face("test", 0))
    way = interpolations.interpolate(run, indices=[0, 1], num_steps=5).frames
    for number in range(5):
        there = dataclasses.replace(look, goal=source.face("test", 1), share=number / 4)
        shown = source.picture(there).astype(int)
        assert np.abs(shown - grids.to_levels(way[number])).max() <= 1


def test_the_way_of_coarse_codes_is_that_of_interpolate(sources, workdirs):
    source, run = sources("stack"), run_lib.load(workdirs("stack"))
    look = plain(source, source.face("test", 0))
    way = interpolations.interpolate(run, indices=[0, 1], num_steps=3, up_to=2).frames
    whole = dataclasses.replace(look, goal=source.face("test", 1), share=1.0)
    there = dataclasses.replace(whole, up_to=2)
    shown = source.picture(there)
    assert np.abs(shown.astype(int) - grids.to_levels(way[2])).max() <= 1
    assert (shown != source.picture(whole)).any()
    assert (shown != source.picture(look)).any()
    choices = '<select data-name="up_to" data-usual="all"><option>all</option>'
    assert f"{choices}<option>2x2</option></select>" in controls.markup(source)
    assert 'data-name="up_to"' not in controls.markup(sources("vae"))


@pytest.mark.parametrize("up_to, expected", [(None, 0.5), (2, -1.0)])
def test_labels_change_along_a_way_only_where_all_codes_do(
    sources, monkeypatch, up_to, expected
):
    source, told = sources("stack"), []

    def decode(model, codes, labels, dial):
        told.append(labels.item())
        return np.zeros((1, 16, 16, 1), np.float32)

    monkeypatch.setattr(sampling, "decode", decode)
    first, goal = (
        dataclasses.replace(source.face("test", number), labels=np.float32([[label]]))
        for number, label in ((0, -1), (1, 1))
    )
    source.picture(Look(first, goal=goal, share=0.75, up_to=up_to))
    assert told == [expected]


def test_a_sample_of_the_prior_is_the_first_of_its_seed(sources, workdirs):
    source, run = sources("vae"), run_lib.load(workdirs("vae"))
    for temperature in (1.0, 0.5):
        look = dataclasses.replace(
            plain(source, source.face("seed", 4)),
            sampler="prior",
            temperature=temperature,
        )
        drawn = samples.sample(run, "prior", 1, 4, temperature=temperature)
        shown = source.picture(look).astype(int)
        assert np.abs(shown - grids.to_levels(drawn[0])).max() <= 1


def test_draws_of_fitted_gaussians_have_their_moments():
    fitted = Density(
        np.array([0.25, 0.75]),
        np.array([[-10.0, 0.0], [10.0, 5.0]]),
        np.array([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.8], [-0.8, 2.0]]]),
    )
    drawn = np.concatenate([fitted.sample(2, 1, seed) for seed in range(6000)])
    right = drawn[:, 0] > 0
    assert right.mean() == pytest.approx(0.75, abs=0.03)
    for side, number in ((~right, 0), (right, 1)):
        np.testing.assert_allclose(
            drawn[side].mean(axis=0), fitted.means[number], atol=0.15
        )
        np.testing.assert_allclose(
            np.cov(drawn[side].T), fitted.covariances[number], atol=0.2
        )
    cold = fitted.sample(2, 1, 5, 0.0)[0]
    half = fitted.sample(2, 1, 5, 0.5)[0]
    assert (cold == fitted.means).all(axis=1).any()
    np.testing.assert_allclose(half, (cold + drawn[5]) / 2, rtol=1e-5)


def test_ways_end_at_both_faces_and_dimensions_move_by_deviations():
    rng = np.random.default_rng(0)
    z, goal = np.float32(rng.normal(size=(2, 3))), np.float32(rng.normal(size=(1, 3)))
    np.testing.assert_array_equal(interpolation.towards(z, goal, 0.0), z)
    np.testing.assert_array_equal(interpolation.towards(z, goal, 1.0), [*goal, *goal])
    half = interpolation.towards(z, goal, 0.5)
    np.testing.assert_allclose(half, (z + goal) / 2, rtol=1e-6)
    std = np.float32([1, 10, 100])
    moved = interpolation.shifted(z, {1: 0.5, 2: -1.0}, std)
    np.testing.assert_allclose(moved - z, [[0, 5, -100]] * 2, atol=1e-4)


def looks_of(source, portrait):
    """Returns looks that differ in what they are made of."""
    mine = plain(source, source.face("picture", str(portrait)))
    named = next(iter(source.directions["deconfounded"]))
    (first, *_), (last, *_) = controls.leading(source), controls.leading(source)[::-1]
    found = [
        dataclasses.replace(mine, attributes={named: -0.35, "Smiling": 1.0}),
        dataclasses.replace(mine, dimensions={first: 1.25, last: -2.0}),
    ]
    if source.has_dial:
        found.append(dataclasses.replace(mine, realism=0.45))
    if source.test is not None:
        test = plain(source, source.face("test", 1))
        found += [test, dataclasses.replace(test, goal=mine.face, share=0.35)]
        if source.coarse:
            found.append(dataclasses.replace(found[-1], up_to=source.coarse[0]))
    for sampler in source.samplers:
        by_layer = source.resolutions[-1:]
        sample = dataclasses.replace(
            plain(source, source.face("seed", 7)),
            sampler=sampler,
            temperature={by_layer[0]: 0.65} if by_layer else 0.65,
        )
        goal = source.face("seed", 8)
        found.append(sample)
        found.append(dataclasses.replace(sample, goal=goal, share=0.5, temperature=1.0))
    return found


@pytest.mark.parametrize("kind", (*KINDS, "exported"))
def test_the_command_of_a_picture_makes_it(sources, portrait, tmp_path, kind):
    source = sources(kind)
    for look in looks_of(source, portrait):
        python, m, name, *argv = shlex.split(look.command(source.opened))
        assert (python, m, name) == ("python", "-m", "vae_jax.explorer")
        assert argv.pop() == "--to=face.png"
        assert program.main([*argv, f"--to={tmp_path / 'face.png'}"]) == 0
        with Image.open(tmp_path / "face.png") as file:
            made = np.asarray(file).reshape(source.picture(look).shape)
        np.testing.assert_array_equal(made, source.picture(look))


@pytest.mark.parametrize("kind", (*KINDS, "exported"))
def test_controls_hold_a_look(sources, portrait, kind):
    source = sources(kind)
    for look in looks_of(source, portrait):
        again = controls.to_look(source, look, controls.to_text(look))
        assert again == look
        assert (source.picture(again) == source.picture(look)).all()


def test_an_exported_model_shows_what_its_run_does(sources):
    ours, theirs = sources("exported"), sources("vae")
    assert ours.test is None and "No test images" in ours.missing[0]
    np.testing.assert_array_equal(ours.order, theirs.order)
    for sampler in theirs.samplers:
        looks = (
            Look(
                source.face("seed", 3),
                sampler,
                "deconfounded",
                attributes={"Bangs": 1.5},
            )
            for source in (ours, theirs)
        )
        a, b = (
            s.picture(x).astype(int) for s, x in zip((ours, theirs), looks, strict=True)
        )
        # Its Gaussian was kept in float32.
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{" * 100_000,
        "[" * 100_000,
        "null",
        '{"sampler": "prior", "estimator": []}',
        '{"sampler": "mixture", "estimator": "notebook"}',
        '{"sampler": "prior", "estimator": "notebook", "attribute Smiling": NaN}',
        '{"sampler": "prior", "estimator": "notebook", "dimension 0": {}}',
        '{"sampler": "prior", "estimator": "notebook", "share": "x"}',
        '{"sampler": "prior", "estimator": "notebook", "up_to": "4x4"}',
        '{"sampler": "prior", "estimator": "notebook", "up_to": []}',
        '{"sampler": "prior", "estimator": "notebook", "up_to": null}',
        f'{{"sampler": "prior", "estimator": "notebook", "share": 1{"0" * 400}}}',
    ],
)
def test_what_is_no_value_of_a_control_is_one_line(sources, text):
    source = sources("vae")
    with pytest.raises(UserError, match="values that are none") as error:
        controls.to_look(source, first_look(source), text)
    assert "\n" not in str(error.value)


def test_values_beyond_a_slider_are_held_to_it(sources):
    source = sources("vae")
    text = '{"sampler": "prior", "estimator": "notebook", "attribute Smiling": 1e300}'
    look = controls.to_look(source, first_look(source), text)
    assert look.attributes == {"Smiling": controls.REACH}


def test_names_of_attributes_are_text_on_the_page(sources):
    evil = "<b>`${alert(1)}{{x}}\\`\"'"
    source = dataclasses.replace(
        sources("vae"), directions={"notebook": {evil: lambda codes: codes}}
    )
    part = controls.markup(source)
    assert "<b>" not in part and "alert" in part
    assert not set("`$\\{}") & set(part)


def test_a_drag_is_one_step_and_undo_shows_what_was_there(sources):
    source = sources("vae")
    look = first_look(source)
    session, shown = Session().to(source, look), []
    for name in ("Smiling", "Bangs", "Smiling"):
        for value in (0.5, 1.0):
            look = dataclasses.replace(
                look, attributes={**look.attributes, name: value + len(shown)}
            )
            session = session.to(source, look, (f"attribute {name}",))
        shown.append(session)
    for before in shown[1::-1]:
        session = session.undone(source)
        assert session.look == before.look
        np.testing.assert_array_equal(session.picture, before.picture)
    assert session.undone(source).look == first_look(source)
    assert session.undone(source).undone(source).look == first_look(source)


def test_history_is_bounded(sources):
    source = sources("vae")
    session = Session()
    for number in range(MOST_STEPS + 20):
        look = dataclasses.replace(first_look(source), dimensions={0: number / 100})
        session = session.to(source, look)
    assert len(session.history) == MOST_STEPS
    assert all(not each.history and each.picture is None for each in session.history)


def test_pictures_of_one_name_are_told_apart(sources, tmp_path):
    source, session = sources("vae"), Session()
    starts = []
    for number in range(2):
        levels = np.full((20, 20, 3), 200 * number, np.uint8)
        Image.fromarray(levels).save(tmp_path / "sent.png")
        face = source.face("picture", "me.png", tmp_path / "sent.png")
        session = session.to(source, plain(source, face))
        starts.append(session.start)
        np.testing.assert_array_equal(session.start, session.picture)
    assert (starts[0] != starts[1]).any()
    with pytest.raises(UserError) as error:
        (tmp_path / "sent.png").write_bytes(b"no picture")
        source.face("picture", "me.png", tmp_path / "sent.png")
    assert str(error.value).startswith("me.png is no picture")


def test_the_heat_map_is_dark_where_nothing_changed():
    start = np.full((4, 4, 1), 100, np.uint8)
    changed = start.copy()
    changed[0, 0] = 250
    dark, heat = page.heat_of(start, start), page.heat_of(changed, start)
    assert dark.max() < 10 and heat[0, 0].min() > 100
    np.testing.assert_array_equal(heat[1:], dark[1:])


def test_without_the_data_set_there_are_samples_and_own_pictures(
    workdirs, portrait, tmp_path, monkeypatch
):
    def gone(*_):
        raise UserError("they are gone")

    workdir = workdirs("vae")
    monkeypatch.setattr(run_lib.resolve, "load_dataset", gone)
    source = open_source(workdir)
    assert source.test is None and any("gone" in line for line in source.missing)
    assert first_look(source).face == Face("seed", 0)
    assert len(looks_of(source, portrait)) == 6
    argv = [f"--workdir={workdir}", "--face=test=0", "--to=a.png"]
    assert program.main(argv) == 2


REFUSED = {
    "": "allowed is one of --demo and --workdir",
    "--demo --workdir=x": "allowed is one of --demo and --workdir",
    "--workdir=nowhere": "nowhere",
    "--workdir=gs://b/x": "--workdir is 'gs://b/x'",
    "--demo --colour=3": "unrecognized arguments: --colour=3",
    "--demo --port=x": "--port is 'x'; allowed is a number from 1 to 65535",
    "--demo --port=70000": "--port is '70000'; allowed",
    "--demo --host=no.such.host.invalid": "--host is 'no.such.host.invalid'",
    "--demo --host=127.0..1": "--host is '127.0..1'",
    "--demo --checkpoint=best": "--checkpoint is 'best'; it goes with a run",
    "--demo --data_dir=x": "--data_dir is 'x'; it goes with a run",
    "EXPORTED --data_dir=x --face=test=1": "--data_dir is 'x'; it goes with a run",
    "RUN --face=seed=1 --port=9": "--port is 9; it goes with the page",
    "RUN --face=seed=1 --host=::1": "--host is '::1'; it goes with the page",
    "RUNS --face=seed=1 --to=a.jpg": "--to is 'a.jpg'; allowed is a new file .png",
    "--demo --face=seed=1": "--face is 'seed=1'; it goes with --to",
    "RUN": "--face is missing",
    "RUN --face=seed=-1": "--face is 'seed=-1'; allowed are seed=NUMBER",
    "RUN --face=test=99": "there is no test image 99",
    "RUN --face=picture=no.png": "no.png is no picture",
    "RUN --face=seed=1 --toward=me.jpg --share=0.5": "--toward is 'me.jpg'; allowed",
    "RUN --face=seed=1 --share=0.5": "--share is 0.5",
    "RUN --face=seed=1 --toward=seed=2 --share=nan": "--share is nan",
    "RUN --face=seed=1 --toward=seed=2 --share=1 --up_to=4": "--up_to is '4'; allowed",
    "STACK --face=seed=1 --up_to=2": "--up_to is 2; it goes with --toward",
    "STACK --face=seed=1 --toward=seed=2 --share=1 --up_to=4": "is '4'; allowed with",
    "STACK --face=seed=1 --toward=seed=2 --share=1 --up_to=x": "is 'x'; allowed with",
    "RUN --face=seed=1 --sampler=mixture": "--sampler is 'mixture'; allowed",
    "RUN --face=seed=1 --sampler=prior --temperature=4:1": "resolution 4; allowed",
    "RUN --face=seed=1 --temperature=-1": "--temperature is '-1'; allowed",
    "RUN --face=seed=1 --estimator=best": "--estimator is 'best'; allowed",
    "RUN --face=seed=1 --attribute=Smile": "--attribute has 'Smile'; with",
    "RUN --face=seed=1 --attribute=Smiling=x": "--attribute has 'Smiling=x'; allowed",
    "RUN --face=seed=1 --dimensions=99=1": "--dimensions has '99'; with",
    "RUN --face=seed=1 --realism=0.5": "--realism is 0.5; allowed is none with",
    "DIAL --face=seed=1 --realism=1.5": "--realism is 1.5; allowed is a number",
    "RUN --face=seed=1 --dimensions=1=inf": "--dimensions has '1=inf'; allowed",
    "CLASSIFIER --face=seed=1": "holds a classifier",
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_mistake_is_one_line(workdirs, capsys, tmp_path, monkeypatch, given):
    monkeypatch.setattr(server, "gradio", lambda: None)
    monkeypatch.setattr(program, "DEMO", workdirs("exported"))
    words = {
        "RUNS": "vae",
        "RUN": "vae",
        "EXPORTED": "exported",
        "DIAL": "dial",
        "STACK": "stack",
        "CLASSIFIER": "classifier",
    }
    for word, kind in words.items():
        named = f"--workdir={workdirs(kind)} --to={tmp_path / 'a.png'}"
        if given.startswith(word):
            given_words = given.replace(word, named, 1)
            break
    else:
        given_words = given
    assert program.main(given_words.split()) == 2
    told = capsys.readouterr().err
    expected = REFUSED[given]
    assert told.startswith("explorer: ") and told.count("\n") == 1
    assert expected in told and not (tmp_path / "a.png").exists()


def test_a_gaussian_that_is_none_is_one_line(sources):
    source = sources("exported")
    density = Density(np.ones(1), np.zeros((1, 4)), -np.eye(4)[None])
    source = dataclasses.replace(source, samplers={"gaussian": density})
    with pytest.raises(UserError, match="a Gaussian that is none"):
        source.picture(first_look(source))


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(program, "DEMO", Path(__file__).parent)
    assert program.main(["--demo"]) == 2
    assert 'pip install -e ".[explorer]"' in capsys.readouterr().err


def test_nothing_large_is_left_to_the_first_step_of_a_page(monkeypatch):
    imported, served = [], []
    stub = mock.MagicMock()

    def launch(**_):
        served.append([*imported])
        return None, "address", None

    stub.launch = launch
    monkeypatch.setattr(server, "gradio", mock.MagicMock)
    monkeypatch.setattr(server, "build", lambda source: stub)
    monkeypatch.setattr(
        server.importlib,
        "import_module",
        lambda name: imported.append(name) or mock.MagicMock(),
    )
    monkeypatch.setattr(server, "_wait", lambda: None)
    server.serve(mock.MagicMock(), "127.0.0.1", 7860)
    (before,) = served
    assert "matplotlib.pyplot" in before


def test_a_busy_port_is_named(monkeypatch):
    monkeypatch.setattr(server, "gradio", lambda: None)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(UserError, match=f"--port is {port}.*in use"):
            server.check("127.0.0.1", port)


def test_a_control_that_changes_nothing_makes_no_step(sources):
    source = sources("vae")
    doings = page._Doings(source)
    begun = Session().to(source, first_look(source))
    values = json.loads(controls.to_text(begun.look))
    # Of the way to a second face, which there is not.
    for value in ("0.3", "0.6"):
        values["share"] = value
        now, *_ = doings.step(begun, json.dumps(values))
        assert now is begun
    values[f"dimension {controls.leading(source)[0]}"] = "1.5"
    now, *_ = doings.step(begun, json.dumps(values))
    assert len(now.history) == 1
