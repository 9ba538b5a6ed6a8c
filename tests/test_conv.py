"""The convolutional networks: their products, their shapes, and what stays apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from vae_jax.models import conv

FLOAT32 = jnp.dtype("float32")
BFLOAT16 = jnp.dtype("bfloat16")


def encoder(size=16, channels=1, **settings):
    settings = {
        "width": 8,
        "depth": 1,
        "norm": "none",
        "remat": False,
        "condition_dim": 0,
        "dtype": FLOAT32,
    } | settings
    return conv.Encoder((size, size, channels), 6, **settings, rngs=nnx.Rngs(0))


def decoder(size=16, channels=1, num_maps=2, **settings):
    settings = {
        "width": 8,
        "depth": 1,
        "norm": "none",
        "upsampling": "subpixel",
        "remat": False,
        "dtype": FLOAT32,
    } | settings
    return conv.Decoder(
        5, (size, size, channels), num_maps, **settings, rngs=nnx.Rngs(0)
    )


def wake(module):
    """Gives every block something to add: new ones are the identity."""
    graphdef, params = nnx.split(module)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    leaves = [
        p + 0.2 * jax.random.normal(k, p.shape)
        for k, p in zip(keys, leaves, strict=True)
    ]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))


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


def test_space_to_depth_puts_each_square_of_pixels_into_one_place():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    y = conv.space_to_depth(x, 2)
    assert y.shape == (2, 2, 3, 12)
    for i in range(2):
        for j in range(2):
            here = y[:, 1, 2, 3 * (2 * i + j) : 3 * (2 * i + j) + 3]
            np.testing.assert_array_equal(here, x[:, 2 + i, 4 + j])
    np.testing.assert_array_equal(conv.depth_to_space(y, 2), x)
    assert conv.depth_to_space(y[0], 2).shape == (4, 6, 3)


def new_conv(**settings):
    layer = conv.Conv3x3(3, 4, **{"dtype": FLOAT32, **settings}, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(4.0)
    return layer


def test_convolution_is_scipys_correlation_with_zeros_outside():
    layer = new_conv()
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3))
    kernel = np.float64(layer.kernel[...])
    expected = np.empty((2, 5, 6, 4))
    for b in range(2):
        for f in range(4):
            expected[b, ..., f] = f + sum(
                signal.correlate2d(x[b, ..., c], kernel[..., c, f], mode="same")
                for c in range(3)
            )
    np.testing.assert_allclose(layer(jnp.float32(x)), expected, rtol=1e-4, atol=1e-5)


def test_the_cpus_product_of_patches_is_xlas_convolution_in_value_and_gradient():
    # What accelerators run, run here.
    layer = new_conv()
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    weights = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))
    kernel = layer.kernel[...]

    def total(product, x, kernel):
        return jnp.sum(weights * jnp.sin(product(x, kernel)))

    patches, reference = (
        jax.jit(jax.value_and_grad(functools.partial(total, product), (0, 1)))(
            x, kernel
        )
        for product in (conv._multiply_patches, conv._convolve)
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        patches,
        reference,
    )


def test_bf16_products_are_near_float32s_and_train_float32_kernels():
    layer = new_conv(dtype=BFLOAT16)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    y, grads = jax.value_and_grad(lambda m: jnp.sum(jnp.square(m(x))))(layer)
    y_full, grads_full = jax.value_and_grad(lambda m: jnp.sum(jnp.square(m(x))))(
        new_conv()
    )
    assert layer(x).dtype == BFLOAT16
    assert grads.kernel[...].dtype == FLOAT32
    np.testing.assert_allclose(np.float32(y), y_full, rtol=0.02)
    assert np.float32(y) != y_full
    difference = grads.kernel[...] - grads_full.kernel[...]
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(grads_full.kernel[...])


@pytest.mark.parametrize("norm", conv.NORMS)
def test_a_new_block_is_the_identity_that_can_learn(norm):
    block = conv.Block(8, norm, dtype=FLOAT32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    np.testing.assert_array_equal(block(x), x)
    slopes = jax.grad(lambda b: jnp.sum(jnp.square(b(x))))(block)
    assert (slopes.widen.kernel[...] != 0).any()


@pytest.mark.parametrize("upsampling", conv.UPSAMPLINGS)
@pytest.mark.parametrize("norm", conv.NORMS)
@pytest.mark.parametrize(("size", "channels"), [(64, 1), (128, 3)])
def test_networks_keep_their_promised_shapes(size, channels, norm, upsampling):
    images = jnp.zeros((2, size, size, channels))
    features = jax.eval_shape(lambda: encoder(size, channels, norm=norm)(images))
    assert features.shape == (2, 6)
    maps = jax.eval_shape(
        lambda: decoder(size, channels, norm=norm, upsampling=upsampling)(
            jnp.zeros((3, 2, 5))
        )
    )
    assert [m.shape for m in maps] == [(3, 2, size, size, channels)] * 2
    assert {m.dtype for m in (*maps, features)} == {FLOAT32}


@pytest.mark.parametrize("width", [2, 18, 34, 50, 64, 100])
def test_group_norm_takes_every_width_that_the_settings_allow(width):
    x = jnp.zeros((1, 16, 16, 1))
    shape = jax.eval_shape(lambda: encoder(width=width, norm="group")(x)).shape
    assert shape == (1, 6)


@pytest.mark.parametrize("norm", conv.NORMS)
def test_networks_of_the_same_settings_share_their_compiled_programs(norm):
    # jit compares the structure: a function made anew in each would differ.
    for make in (encoder, decoder):
        one, other = (nnx.graphdef(make(norm=norm)) for _ in range(2))
        assert one == other and hash(one) == hash(other)
        assert one != nnx.graphdef(make(norm=norm, width=16))


@pytest.mark.parametrize("upsampling", conv.UPSAMPLINGS)
def test_bf16_networks_keep_float32_outputs_and_parameters(upsampling):
    z = jax.random.normal(jax.random.key(1), (2, 5))
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    outputs = []
    for dtype in (FLOAT32, BFLOAT16):
        modules = (
            wake(encoder(norm="group", dtype=dtype)),
            wake(decoder(upsampling=upsampling, dtype=dtype)),
        )
        leaves = jax.tree.leaves([nnx.state(m) for m in modules])
        assert {p.dtype for p in leaves} == {FLOAT32}
        outputs.append((modules[0](images), *modules[1](z)))
    for full, half in zip(*outputs, strict=True):
        assert half.dtype == FLOAT32
        scale = float(jnp.abs(full).max())
        assert 0 < float(jnp.abs(full - half).max()) < 0.1 * scale


@pytest.mark.parametrize("norm", conv.NORMS)
def test_an_images_output_does_not_depend_on_the_rest_of_the_batch(norm):
    # 64 channels are four groups, which have their own statistics for each image.
    model = wake(encoder(width=64, norm=norm))
    images = jax.random.uniform(jax.random.key(0), (3, 16, 16, 1))
    others = images.at[1:].set(5 * images[1:] + 3)
    run = jax.jit(lambda m, x: m(x))
    np.testing.assert_allclose(
        run(model, images)[0], run(model, others)[0], rtol=1e-5, atol=1e-5
    )
    assert not np.allclose(run(model, images)[1], run(model, others)[1])


def test_group_norm_is_in_the_blocks():
    # The first layer is linear: with normalised blocks what they add does not grow.
    images = jax.random.uniform(jax.random.key(0), (1, 8, 8, 1))
    grown = {}
    for norm in conv.NORMS:
        block = wake(conv.Block(16, norm, dtype=FLOAT32, rngs=nnx.Rngs(0)))
        x = jnp.tile(images, 16)
        added = [block(s * x) - s * x for s in (10.0, 1000.0)]
        grown[norm] = float(jnp.abs(added[1]).max() / jnp.abs(added[0]).max())
    assert grown["group"] < 1.1 and grown["none"] > 10


@pytest.mark.parametrize("norm", conv.NORMS)
def test_remat_changes_no_gradient_and_keeps_fewer_values(norm):
    z = jax.random.normal(jax.random.key(1), (2, 5))
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    gradients, kept = [], []
    for remat in (False, True):
        modules = (
            wake(encoder(depth=2, norm=norm, remat=remat)),
            wake(decoder(depth=2, norm=norm, remat=remat)),
        )

        def total(modules):
            features, maps = modules[0](images), modules[1](z)
            return jnp.sum(jnp.sin(features)) + sum(jnp.sum(jnp.sin(m)) for m in maps)

        gradients.append(jax.tree.leaves(jax.jit(jax.grad(total))(modules)))
        # What the backward pass closes over.
        closed = jax.eval_shape(lambda m, f=total: jax.vjp(f, m)[1], modules)
        kept.append(sum(a.size for a in jax.tree.leaves(closed)))
    for plain, again in zip(*gradients, strict=True):
        np.testing.assert_allclose(plain, again, rtol=1e-4, atol=1e-5)
    assert kept[1] < 0.8 * kept[0]


def test_labels_enter_the_encoder_beside_the_image():
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 1))
    model = encoder(condition_dim=3)
    labels = jnp.asarray([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    with_labels, without = model(images, labels), model(images, 0 * labels)
    assert not np.allclose(with_labels[0], without[0], atol=1e-4)
    np.testing.assert_allclose(with_labels[1], without[1], atol=1e-6)
    for column in range(3):
        one = model(images, jnp.zeros((2, 3)).at[:, column].set(1.0))
        assert not np.allclose(one, without, atol=1e-4)


def test_resizing_makes_no_pattern_of_an_even_map():
    """A coarsest map that is the same everywhere stays so inside, for new blocks."""
    ranges = {}
    for upsampling in conv.UPSAMPLINGS:
        model = decoder(32, upsampling=upsampling)
        bias = jnp.tile(jax.random.normal(jax.random.key(0), (model.coarsest[2],)), 16)
        model.project.bias[...] = bias
        inside = model(jnp.zeros((1, 5)))[0][0, 8:-8, 8:-8, 0]
        assert float(jnp.abs(inside).max()) > 0.01
        ranges[upsampling] = float(jnp.ptp(inside))
    assert ranges["resize"] < 1e-5
    # The sub-pixel's period is its channels', which training has to make alike.
    assert ranges["subpixel"] > 0.01


def test_codes_of_any_leading_shape_are_decoded_one_by_one():
    z = jax.random.normal(jax.random.key(0), (2, 3, 5))
    model = wake(decoder())
    together, apart = model(z), model(z[1, 2][None])
    for whole, one in zip(together, apart, strict=True):
        np.testing.assert_allclose(whole[1, 2], one[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(together[0], together[1])
