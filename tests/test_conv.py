"""The convolutional networks: their products, their shapes, and what stays apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vae_jax.models.networks import conv, conv_decoder, layers, strided

FLOAT32 = jnp.dtype("float32")
BFLOAT16 = jnp.dtype("bfloat16")


def widths(size, settings):
    code_size, width = settings.get("code_size"), settings.pop("width", 8)
    patch = settings.get("patch", conv.PATCH)
    return conv.stage_widths(size, width, "finest", code_size, patch)


def encoder(size=16, channels=1, **settings):
    settings = {
        "depth": 1,
        "norm": "none",
        "remat": False,
        "condition_dim": 0,
        "dtype": FLOAT32,
    } | settings
    settings["widths"] = widths(size, settings)
    return conv.Encoder((size, size, channels), 6, **settings, rngs=nnx.Rngs(0))


def decoder(size=16, channels=1, num_maps=2, **settings):
    settings = {
        "depth": 1,
        "norm": "none",
        "upsampling": "subpixel",
        "remat": False,
        "dtype": FLOAT32,
    } | settings
    settings["widths"] = widths(size, settings)
    return conv_decoder.Decoder(
        5, (size, size, channels), num_maps, **settings, rngs=nnx.Rngs(0)
    )


def noise(shape, seed=0):
    # By numpy, because JAX compiles a program for each shape that it draws.
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def awake(make, **settings):
    """A network whose blocks all have something to add: new ones are the identity."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: make(**settings)))
    leaves, structure = jax.tree.flatten(params)
    leaves = [
        (0.3 * noise(p.shape, seed)).astype(p.dtype) for seed, p in enumerate(leaves)
    ]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))


# One program for a network, where calling it outside would be one for each operation.
run = jax.jit(lambda model, *arguments: model(*arguments))


@pytest.mark.parametrize(
    ("size", "stages"),
    [
        (8, [2]),
        (24, [6]),
        (28, [7]),
        (32, [8, 4]),
        (64, [16, 8, 4]),
        (96, [24, 12, 6]),
        (128, [32, 16, 8, 4]),
        (256, [64, 32, 16, 8, 4]),
    ],
)
def test_stages_halve_down_to_less_than_eight(size, stages):
    assert conv.resolutions(size) == stages


@pytest.mark.parametrize("size", [4, 30, 36, 60, 66, 100, 178])
def test_sizes_that_do_not_halve_are_refused_by_name(size):
    with pytest.raises(ValueError, match=f"^{size} is not"):
        conv.resolutions(size)


def new_block(channels, norm):
    return conv.Block(channels, norm, dtype=FLOAT32, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("norm", layers.NORMS)
def test_a_new_block_is_the_identity_that_can_learn(norm):
    block = new_block(8, norm)
    x = noise((2, 4, 4, 8))

    def total(block):
        y = block(x)
        return jnp.sum(jnp.square(y)), y

    slopes, y = jax.jit(jax.grad(total, has_aux=True))(block)
    np.testing.assert_array_equal(y, x)
    assert (slopes.widen.kernel[...] != 0).any()


@pytest.mark.parametrize("upsampling", conv.UPSAMPLINGS)
@pytest.mark.parametrize("norm", layers.NORMS)
@pytest.mark.parametrize(("size", "channels"), [(64, 1), (128, 3)])
def test_networks_keep_their_promised_shapes(size, channels, norm, upsampling):
    images = jnp.zeros((2, size, size, channels))
    features = jax.eval_shape(lambda: encoder(size, channels, norm=norm)(images))
    assert features.shape == (2, 6)
    maps = jax.eval_shape(
        lambda: decoder(size, channels, norm=norm, upsampling=upsampling)(
            jnp.zeros((3, 5))
        )
    )
    assert [m.shape for m in maps] == [(3, size, size, channels)] * 2
    assert {m.dtype for m in (*maps, features)} == {FLOAT32}


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 3), (64, 1), (128, 3)])
def test_the_strided_encoder_halves_down_to_less_than_eight(size, channels):
    model = nnx.eval_shape(
        lambda: strided.StridedEncoder(
            (size, size, channels), 6, width=4, dtype=BFLOAT16, rngs=nnx.Rngs(0)
        )
    )
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    features = jax.eval_shape(lambda m, x: m(x), model, images)
    assert features.shape == (2, 6) and features.dtype == FLOAT32
    coarsest = conv.resolutions(size)[-1]
    assert size // 2 ** len(model.layers) == coarsest
    assert model.head.kernel.shape[0] == coarsest**2 * model.layers[-1].bias.shape[0]


@pytest.mark.parametrize("width", [2, 18, 34, 50, 64, 100])
def test_group_norm_takes_every_width_that_the_settings_allow(width):
    x = jnp.zeros((1, 16, 16, 1))
    shape = jax.eval_shape(lambda: encoder(width=width, norm="group")(x)).shape
    assert shape == (1, 6)


@pytest.mark.parametrize("norm", layers.NORMS)
def test_networks_of_the_same_settings_share_their_compiled_programs(norm):
    # jit compares the structure: a function made anew in each would differ.
    for make in (encoder, decoder):
        one, other, wide = (
            nnx.graphdef(
                nnx.eval_shape(functools.partial(make, norm=norm, width=width))
            )
            for width in (8, 8, 16)
        )
        assert one == other and hash(one) == hash(other)
        assert one != wide


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "shape", "settings"),
    [
        (encoder, (2, 16, 16, 1), {"norm": "group"}),
        *((decoder, (2, 5), {"upsampling": kind}) for kind in conv.UPSAMPLINGS),
    ],
)
def test_bf16_networks_keep_float32_outputs_and_parameters(make, shape, settings):
    x = noise(shape)
    outputs = []
    for dtype in (FLOAT32, BFLOAT16):
        model = awake(make, dtype=dtype, **settings)
        assert {p.dtype for p in jax.tree.leaves(nnx.state(model))} == {FLOAT32}
        outputs.append(jax.tree.leaves(run(model, x)))
    for full, half in zip(*outputs, strict=True):
        assert half.dtype == FLOAT32
        scale = float(jnp.abs(full).max())
        assert 0 < float(jnp.abs(full - half).max()) < 0.1 * scale


def test_an_images_output_does_not_depend_on_the_rest_of_the_batch():
    # 64 channels are four groups, which have their own statistics for each image.
    model = awake(encoder, size=8, width=64, norm="group")
    images = noise((3, 8, 8, 1))
    others = images.at[1:].set(5 * images[1:] + 3)
    one, other = run(model, images), run(model, others)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5, atol=1e-5)
    assert not np.allclose(one[1], other[1])


def test_group_norm_is_in_the_blocks():
    # The first layer is linear: with normalised blocks what they add does not grow.
    x = jnp.tile(noise((1, 8, 8, 1)), 16)
    grown = {}
    for norm in layers.NORMS:
        block = awake(new_block, channels=16, norm=norm)
        added = [run(block, s * x) - s * x for s in (10.0, 1000.0)]
        grown[norm] = float(jnp.abs(added[1]).max() / jnp.abs(added[0]).max())
    assert grown["group"] < 1.1 and grown["none"] > 10


@pytest.mark.slow
def test_remat_changes_no_gradient_and_keeps_fewer_values():
    inputs = (noise((2, 8, 8, 1)), noise((2, 5), seed=1))

    def total(modules):
        outputs = [module(x) for module, x in zip(modules, inputs, strict=True)]
        return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(outputs))

    gradients, kept = [], []
    for remat in (False, True):
        modules = (
            awake(encoder, size=8, depth=2, norm="group", remat=remat),
            awake(decoder, size=8, depth=2, remat=remat),
        )
        gradients.append(jax.tree.leaves(jax.jit(jax.grad(total))(modules)))
        # What the backward pass closes over.
        kept.append(
            [
                sum(a.size for a in jax.tree.leaves(closed))
                for closed in (
                    jax.eval_shape(lambda m, x=x: jax.vjp(lambda m: m(x), m)[1], module)
                    for module, x in zip(modules, inputs, strict=True)
                )
            ]
        )
    for plain, again in zip(*gradients, strict=True):
        np.testing.assert_allclose(plain, again, rtol=1e-4, atol=1e-5)
    for plain, again in zip(*kept, strict=True):
        assert again < 0.8 * plain


def test_labels_enter_the_encoder_beside_the_image():
    images = noise((2, 16, 16, 1))
    model = awake(encoder, condition_dim=3)
    labels = jnp.asarray([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    with_labels, without = run(model, images, labels), run(model, images, 0 * labels)
    assert not np.allclose(with_labels[0], without[0], atol=1e-4)
    np.testing.assert_allclose(with_labels[1], without[1], atol=1e-6)
    for column in range(3):
        one = run(model, images, jnp.zeros((2, 3)).at[:, column].set(1.0))
        assert not np.allclose(one, without, atol=1e-4)


def test_resizing_makes_no_pattern_of_an_even_map():
    """Without blocks, a coarsest map that is the same everywhere stays so inside."""
    ranges = {}
    for upsampling in conv.UPSAMPLINGS:
        model = awake(decoder, size=32, depth=0, upsampling=upsampling)
        bias = model.project.bias[...]
        model.project.bias[...] = jnp.tile(bias[: model.coarsest[2]], 16)
        inside = run(model, jnp.zeros((1, 5)))[0][0, 8:-8, 8:-8, 0]
        assert float(jnp.abs(inside).max()) > 0.01
        ranges[upsampling] = float(jnp.ptp(inside))
    assert ranges["resize"] < 1e-5
    # The sub-pixel's period is its channels', which training has to make alike.
    assert ranges["subpixel"] > 0.01


@pytest.mark.parametrize("upsampling", conv.UPSAMPLINGS)
def test_a_decoder_of_finer_patches_has_one_stage_more(upsampling):
    coarse, fine = (
        awake(decoder, upsampling=upsampling, patch=patch) for patch in (4, 2)
    )
    assert fine.stages.keys() - coarse.stages.keys() == {"r8"}
    # Half as wide, at twice the resolution.
    assert fine.stages["r8"].blocks[0].widen.kernel[...].shape == (2, 4)
    z = noise((3, 5))
    maps = run(fine, z)
    assert len(maps) == 2 and maps[0].shape == (3, 16, 16, 1)
    # What is at the coarser stages is the same, so that it can be taken over.
    shapes = [
        jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(m.stages["r4"].blocks)))
        for m in (coarse, fine)
    ]
    assert shapes[0] == shapes[1]
