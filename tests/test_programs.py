"""Programs of a model say what it says, with nothing of this project around them."""

import importlib.util
import logging
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_small_config
from flax import nnx
from test_contract import made, model_of, num_labels, tiny

from vae_jax import run as run_lib
from vae_jax.errors import UserError
from vae_jax.experiment import assemble
from vae_jax.export import loading, programs, saving
from vae_jax.export.__main__ import main as export_main
from vae_jax.models import build
from vae_jax.models.contract import flatten, unflatten

pytest.importorskip("safetensors")
pytestmark = pytest.mark.slow
# Each network and kind of code there is.
MODELS = [
    "ae, conv",
    "conv_vae",
    "cvae",
    "hvae",
    "judge",
    "sharp_vae",
    "style_vae",
    "vae",
    "vae, spatial, flow",
    "vae, style by resolution, labels",
    "vq, two maps, masked",
    "vq_vae",
    "vq_vae_2",
]
# JAX's own exporter knows all operations.
CASES = [("onnx", name) for name in MODELS] + [
    ("stablehlo", name) for name in ("cvae", "hvae", "judge", "vq_vae_2")
]


@pytest.fixture(params=programs.KINDS)
def kind(request):
    missing = importlib.util.find_spec("jax2onnx") is None
    if request.param == "onnx" and missing:
        pytest.skip("the extra onnx is not installed")
    return request.param


def opened(kind, program):
    """Returns a program as a function of arrays by name."""
    if kind == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(program)
        return lambda given: session.run(None, given)[0]
    from jax import export

    found = export.deserialize(bytearray(program))
    return lambda given: np.asarray(found.call(*given.values()))


def shape_of(name):
    data = made(name)[0].config.dataset
    return data.size, data.size, data.channels


def num_told(name):
    return num_labels(name) if getattr(model_of(name), "num_told", 0) else 0


def written(name, kind):
    return programs.programs(model_of(name), shape_of(name), num_told(name), kind=kind)


@pytest.mark.parametrize(("kind", "name"), CASES, indirect=["kind"])
def test_programs_take_any_number_of_images(kind, name, capfd):
    model, found = model_of(name), written(name, kind)
    # Nor do runtimes have anything to say of them.
    assert capfd.readouterr() == ("", "")
    random = np.random.default_rng(3)
    images = random.random((5, *shape_of(name)), np.float32)
    labels = random.choice(np.float32([-1, 0, 1]), (5, num_told(name)))
    told = {"labels": labels} if num_told(name) else {}
    if name == "judge":
        assert [*found] == ["encoder"]
        expected = jax.jit(lambda m, x: m.logits(m.features(x)))(model, images)
        log_odds = opened(kind, found["encoder"])({"images": images})
        np.testing.assert_allclose(log_odds, expected, atol=1e-4)
        return
    encode = jax.jit(lambda m, *given: flatten(m.encode(*given)))
    decode = jax.jit(lambda m, *given: m.decode(*given).mean)
    encoder, decoder = (opened(kind, found[part]) for part in programs.PARTS)
    numbers = encoder({"images": images} | told)
    expected = encode(model, images, *told.values())
    np.testing.assert_allclose(numbers, expected, atol=1e-4, rtol=1e-4)
    means = decoder({"numbers": numbers} | told)
    code = unflatten(jnp.asarray(numbers), model.code_shape)
    expected = decode(model, code, *told.values())
    np.testing.assert_allclose(means, expected, atol=1e-4)
    one = {name: array[:1] for name, array in ({"numbers": numbers} | told).items()}
    np.testing.assert_allclose(decoder(one), means[:1], atol=1e-5)


@pytest.fixture(scope="module")
def told_run(data_dir, tmp_path_factory):
    """Returns the run of a VAE that is told labels."""
    config = new_small_config(data_dir, "vae")
    config.model.prior, config.model.attributes = "conditional", "Smiling,Eyeglasses"
    return run_lib.train(config, tmp_path_factory.mktemp("told"))


@pytest.mark.parametrize("name", ["told", "classifier"])
def test_a_card_says_how_programs_run_where_nothing_else_is(
    small_runs, told_run, tmp_path, kind, name
):
    run = told_run if name == "told" else small_runs(name)
    model, folder = run.model(), tmp_path / "to"
    given = [f"--workdir={run.workdir}", f"--to={folder}", f"--format={kind}"]
    assert export_main(given) == 0
    random = np.random.default_rng(0)
    labels = random.choice(np.float32([-1, 0, 1]), (5, 2))
    images = random.random((5, 16, 16, 1), np.float32)
    numbers = random.normal(size=(5, 4)).astype(np.float32)
    if name == "told":
        made = model.decode(jnp.asarray(numbers), jnp.asarray(labels)).mean
    else:
        made = model.logits(model.features(jnp.asarray(images)))
    np.savez(tmp_path / "given.npz", images=images, labels=labels, numbers=numbers)
    card = (folder / "README.md").read_text()
    assert "[B,A]: Smiling, Eyeglasses" in card or "[B,A], of Smiling, Eye" in card
    *_, code = re.findall("```python\n(.*?)```", card, re.DOTALL)
    *lines, last = code.strip().splitlines()
    code = f"""
import os, sys, numpy as np
globals().update(np.load("given.npz"))
os.chdir("to")
{chr(10).join(lines)}
np.save("../found.npy", {last})
others = {{"vae_jax", "flax", {"'jax'" if kind == "onnx" else ""}}}
assert not others & {{name.split(".")[0] for name in sys.modules}}
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), made, atol=1e-5)
    loading.load(folder)


def test_programs_tell_no_path(kind):
    for program in written("conv_vae", kind).values():
        for path in (Path(programs.__file__).parents[2], Path(jax.__file__).parent):
            assert str(path).encode() not in program


@pytest.mark.parametrize("name", ["conv_vae", "hvae"])
def test_programs_compute_in_float32(name, kind):
    config = tiny(name)
    config.precision = "bf16"
    model = build.merge(assemble(config, 50).graphdef, made(name)[1])
    found = programs.programs(model, shape_of(name), 0, kind=kind)
    assert found == written(name, kind)
    # The model itself is as it was.
    layers = [each for _, each in nnx.iter_modules(model) if hasattr(each, "dtype")]
    assert any(layer.dtype == jnp.bfloat16 for layer in layers)


def test_a_program_that_is_not_the_model_is_refused(monkeypatch, kind):
    model = model_of("ae")
    real, calls = type(model).encode, []

    def encode(self, images, labels=None, key=None):
        calls.append(images)
        return real(self, images, labels, key) + len(calls)

    monkeypatch.setattr(type(model), "encode", encode)
    with pytest.raises(UserError, match="the encoder as .* is .* from the model"):
        written("ae", kind)


@pytest.mark.parametrize("kind", ["onnx"], indirect=True)
def test_what_cannot_be_written_is_one_line(monkeypatch, kind):
    def encode(self, images, labels=None, key=None):
        return jax.lax.platform_dependent(images, cpu=jnp.sin, default=jnp.cos)

    monkeypatch.setattr(type(model_of("ae")), "encode", encode)
    with pytest.raises(UserError) as error:
        written("ae", kind)
    told = str(error.value)
    assert "--format is onnx" in told and "'platform_index'" in told
    assert told.endswith("allowed for every model is stablehlo") and "\n" not in told


def test_writing_changes_nothing_around_it(kind):
    root = logging.getLogger()
    before = [*root.handlers], logging.getLogger("onnx_ir").level, jax.numpy.concatenate
    images = jnp.ones((2, *shape_of("conv_vae")))
    expected = model_of("conv_vae").encode(images)
    written("conv_vae", kind)
    after = [*root.handlers], logging.getLogger("onnx_ir").level, jax.numpy.concatenate
    assert before == after
    np.testing.assert_array_equal(model_of("conv_vae").encode(images), expected)


@pytest.mark.parametrize("library", ["jax2onnx", "onnxruntime"])
def test_without_the_libraries_the_extra_is_named(
    small_runs, tmp_path, monkeypatch, library
):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[onnx\]\""):
        saving.export(small_runs("classifier"), tmp_path / "to", kind="onnx")
    assert not (tmp_path / "to").exists()
