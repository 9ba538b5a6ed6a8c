"""The style decoder: modulated convolutions, and which part of a code sets what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_conv import noise

from vae_jax import main
from vae_jax import run as run_lib
from vae_jax.commands import interpolations, mixing
from vae_jax.errors import UserError
from vae_jax.models.networks import style
from vae_jax.models.networks.layers import Conv3x3, halve
from vae_jax.models.networks.style import StyleDecoder, modulated, share_out

FLOAT32 = jnp.dtype("float32")
WIDTHS = {16: 4, 8: 8, 4: 16}


def decoder(**settings):
    settings = {
        "widths": WIDTHS,
        "depth": 1,
        "upsampling": "subpixel",
        "remat": False,
        "patch": 2,
        "dtype": FLOAT32,
        "rngs": nnx.Rngs(0),
    } | settings
    return StyleDecoder(6, (32, 32, 1), 2, **settings)


def awake(make):
    """A decoder all of whose stages paint: new ones begin by adding nothing."""
    graphdef, params = nnx.split(make())
    leaves, structure = jax.tree.flatten(params)
    leaves = [p + 0.2 * noise(p.shape, seed) for seed, p in enumerate(leaves)]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))


def test_a_modulated_convolution_is_one_with_kernels_of_each_image():
    convolution = Conv3x3(3, 5, dtype=FLOAT32, rngs=nnx.Rngs(0))
    convolution.bias[...] = noise((5,), 1)
    x, scales = noise((4, 6, 6, 3), 2), noise((4, 3), 3)
    found = modulated(convolution, x, scales)
    for image, scale, given in zip(x, scales, found, strict=True):
        kernel = np.asarray(convolution.kernel[...] * scale[:, None], np.float64)
        kernel /= np.sqrt((kernel**2).sum(axis=(0, 1, 2)) + 1e-8)
        expected = jax.lax.conv_general_dilated(
            image[None],
            jnp.float32(kernel),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        np.testing.assert_allclose(
            given, expected + convolution.bias[...], rtol=1e-4, atol=1e-5
        )


def test_a_modulated_convolution_keeps_variance_whatever_the_scales():
    convolution = Conv3x3(32, 64, dtype=FLOAT32, rngs=nnx.Rngs(0))
    x = noise((8, 16, 16, 32))
    for factor in (1e-2, 1.0, 1e2):
        y = modulated(convolution, x, factor * (1 + noise((8, 32), 1)))
        inside = y[:, 1:-1, 1:-1]
        assert float(inside.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("factor", [1e-3, 1.0, 3e4])
def test_half_precision_holds_scales_of_any_size(dtype, factor):
    x, scales = noise((2, 8, 8, 16)), factor * (1 + noise((2, 16), 1))
    exact, half = (
        Conv3x3(16, 8, dtype=jnp.dtype(d), rngs=nnx.Rngs(0)) for d in ("float32", dtype)
    )
    for convolution in (exact, half):
        convolution.bias[...] = jnp.ones(8)
    expected = modulated(exact, x, scales)
    found = modulated(half, x.astype(dtype), scales).astype(FLOAT32)
    assert float(jnp.abs(found - expected).max()) < 0.05


@pytest.mark.parametrize("upsampling", ["subpixel", "resize"])
def test_images_have_their_shape_and_change_with_the_code(upsampling):
    model = awake(lambda: decoder(upsampling=upsampling))
    maps = model(noise((3, 6)))
    assert [m.shape for m in maps] == [(3, 32, 32, 1)] * 2
    assert all(m.dtype == FLOAT32 for m in maps)
    assert not np.allclose(maps[0][0], maps[0][1], atol=1e-3)


def test_blocks_computed_again_have_the_same_gradients():
    z, target = noise((2, 6)), noise((2, 32, 32, 1), 5)

    def gradients(remat):
        graphdef, params = nnx.split(awake(lambda: decoder(remat=remat)))

        def loss(params):
            return jnp.sum((nnx.merge(graphdef, params)(z)[0] - target) ** 2)

        return jax.tree.leaves(jax.grad(loss)(params))

    for one, other in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert np.abs(one).max() > 0


def test_half_precision_stays_near_and_paints_in_float32():
    z = noise((2, 6))
    exact = awake(decoder)(z)[0]
    for dtype in ("bfloat16", "float16"):
        found = awake(lambda dtype=dtype: decoder(dtype=jnp.dtype(dtype)))(z)[0]
        assert found.dtype == FLOAT32
        error = float(jnp.abs(found - exact).max() / jnp.abs(exact).max())
        assert error < 0.1, dtype


def test_numbers_are_shared_out_coarsest_first():
    assert share_out(8, [16, 8, 4]) == (4, 4, 4, 8, 8, 8, 16, 16)
    assert share_out(3, [8, 4]) == (4, 4, 8)


def test_fine_numbers_of_a_code_do_not_reach_coarse_stages():
    told = share_out(6, [*WIDTHS])
    model = awake(lambda: decoder(code_resolutions=told))
    z = noise((1, 6))
    changed = z.at[:, np.array(told) == 16].add(1.0)
    before, after = model(z)[0], model(changed)[0]
    assert not np.allclose(before, after, atol=1e-3)
    # Without what the finest stage paints, they are the same.
    model.stages["r16"].exit.kernel[...] *= 0
    np.testing.assert_array_equal(model(z)[0], model(changed)[0])
    coarse = z.at[:, np.array(told) == 4].add(1.0)
    assert not np.allclose(model(z)[0], model(coarse)[0], atol=1e-3)


def test_labels_set_styles_of_every_resolution():
    told = share_out(6, [*WIDTHS])
    model = awake(lambda: decoder(code_resolutions=told, condition_dim=2))
    z = noise((1, 8))
    for at in WIDTHS:
        mapped = model.mapping[f"r{at}"]
        assert mapped.hidden.kernel.shape[0] == 2 + 2
    assert not np.allclose(model(z)[0], model(z.at[:, -1].add(1.0))[0], atol=1e-3)


@pytest.fixture(scope="module")
def style_run(data_dir, tmp_path_factory):
    from conftest import new_tiny_config

    config = new_tiny_config(data_dir)
    config.dataset.size, config.model.hidden_dim = 32, 512
    config.model.network, config.model.width = "conv", 4
    config.model.decoder, config.model.styles = "style", "by_resolution"
    config.train.num_steps = 4
    return run_lib.train(config, tmp_path_factory.mktemp("style") / "run")


def test_styles_of_two_faces_are_mixed(style_run):
    found = mixing.mix(style_run, indices=[0, 1])
    assert found.record["resolutions"] == [4, 8] and found.record["up_to"] == 4
    model = style_run.model()
    codes = model.encode(jnp.float32(style_run.dataset.splits["test"].images[:2]) / 255)
    both = jnp.concatenate([codes[:1, :2], codes[1:, 2:]], axis=-1)
    np.testing.assert_allclose(
        found.images[0, 1], model.decode(both).mean[0], rtol=1e-4, atol=1e-5
    )


def test_a_mixture_takes_the_dial_of_decoders_that_have_one(
    style_run, capsys, monkeypatch
):
    given = ["--mode=mix", f"--workdir={style_run.workdir}", "--realism=1"]
    monkeypatch.setattr("sys.argv", ["vae_jax", *given])
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    with pytest.raises(SystemExit):
        main.cli()
    expected = "--realism is 1.0; it goes with a run of config.model.realism=True"
    assert expected in capsys.readouterr().err


def decoded_of_labelled(command, monkeypatch):
    """Has a command find two faces of labels -1 and 1; returns what it decodes."""
    find, told = command.way_points, []

    def labelled(*rest, **how):
        return dataclasses.replace(find(*rest, **how), labels=np.float32([[-1], [1]]))

    def decode(model, codes, labels):
        told.append((codes, labels))
        return np.zeros((len(codes), 32, 32, 1), np.float32)

    monkeypatch.setattr(command, "way_points", labelled)
    monkeypatch.setattr(command.sampling, "decode_codes", decode)
    return told


@pytest.mark.parametrize("up_to", [None, 4])
def test_labels_change_along_a_way_only_where_all_codes_do(
    style_run, up_to, monkeypatch
):
    told = decoded_of_labelled(interpolations, monkeypatch)
    interpolations.interpolate(style_run, indices=[0, 1], num_steps=3, up_to=up_to)
    codes, labels = told[0]
    changes = [True, True, up_to is None, up_to is None]
    np.testing.assert_array_equal(np.ptp(codes, axis=0) > 0, changes)
    expected = [-1, 0, 1, 0, -1] if up_to is None else [-1] * 5
    np.testing.assert_allclose(labels[:, 0], expected, atol=1e-6)


def test_a_mixed_face_is_told_the_labels_of_its_fine_codes(style_run, monkeypatch):
    told = decoded_of_labelled(mixing, monkeypatch)
    mixing.mix(style_run, up_to=4, indices=[0, 1])
    ((codes, labels),) = told
    fine = codes[:, 3]
    np.testing.assert_array_equal(labels[:, 0], np.where(fine == fine[0], -1, 1))
    assert len(set(fine.tolist())) == 2


def test_a_shared_style_has_nothing_to_mix(small_runs):
    with pytest.raises(UserError, match="have one resolution; configs/hvae.py"):
        mixing.mix(small_runs("conv"))


def test_half_of_an_image_is_means_of_squares():
    images = noise((2, 6, 4, 3))
    expected = np.asarray(images).reshape(2, 3, 2, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(halve(images), expected, atol=1e-6)


def test_the_gain_keeps_the_variance_of_a_silu():
    x = np.linspace(-12, 12, 200_001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    square = np.trapezoid((x / (1 + np.exp(-x))) ** 2 * density, x)
    assert style._GAIN**2 * square == pytest.approx(1, abs=1e-3)
