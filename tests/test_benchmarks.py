"""The benchmarks run, and time the same mathematics as PyTorch's."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    figures,
    limits,
    profiling,
    scaling,
    sweep,
    tables,
    timing,
    training,
)
from vae_jax.experiment import assemble
from vae_jax.models.contract import Draw

pytestmark = pytest.mark.slow


def small(name):
    config = training.plain(training.RECIPES[name](), 4)
    config.dataset.size, config.model.latent_dim = 16, 6
    if name == "conv VAE":
        config.model.width = 8
    elif name == "ladder":
        config.model.layers, config.model.widths = "4:1,8:2", "4:12,8:8"
    else:
        config.model.hidden_dim = 32
    return config


def torch_weights(name, params):
    """PyTorch's state, from parameters of the same network."""

    def linear(to, layer):
        return {f"{to}.weight": layer["kernel"].T, f"{to}.bias": layer["bias"]}

    def conv(to, layer):
        kernel = layer["kernel"]
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        return {
            f"{to}.weight": kernel.transpose(3, 2, 0, 1),
            f"{to}.bias": layer["bias"],
        }

    def convs(to, layers):
        if "kernel" in layers:
            yield conv(to, layers)
        else:
            for layer in layers:
                yield from convs(f"{to}.{layer}", layers[layer])

    def halves(first, second, layer):
        for to, half in zip((first, second), (0, 1), strict=True):
            part = {k: np.split(v, 2, axis=-1)[half] for k, v in layer.items()}
            yield linear(to, part)

    encoder, decoder = params["encoder"], params["decoder"]
    if name == "AE":
        parts = [
            linear("encoder.0", encoder["hidden"]),
            linear("encoder.2", encoder["head"]),
            linear("decoder.0", decoder["hidden"]),
            linear("decoder.2", decoder["head"]),
        ]
    elif name == "VAE":
        parts = [
            linear("encoder.0", encoder["hidden"]),
            linear("decoder.0", decoder["hidden"]),
            *halves("mean", "logvar", encoder["head"]),
            *halves("mean_map", "logvar_map", decoder["head"]),
        ]
    else:
        down, up = (
            sorted(side["stages"].items(), key=lambda item: int(item[0][1:]))
            for side in (encoder, decoder)
        )
        down = [stage for _, stage in down[::-1]]
        up = [stage for _, stage in up]
        parts = [
            conv(f"up.{i}", stage["entry"]["mix"]) for i, stage in enumerate(up[1:])
        ]
        for i, stage in enumerate(down):
            parts += convs(f"encoder.{i}", stage["blocks"][0])
    if name == "conv VAE":
        parts += [
            conv("stem", down[0]["entry"]),
            linear("features", encoder["head"]),
            linear("project", decoder["project"]),
            conv("head", up[-1]["exit"]),
        ]
        for i, stage in enumerate(up):
            parts += convs(f"decoder.{i}", stage["blocks"][0])
        for i, stage in enumerate(down[1:]):
            parts.append(conv(f"down.{i}", stage["entry"]))
    elif name == "ladder":
        parts.append({"constant": decoder["constant"].transpose(2, 0, 1)[None]})
        for layer in ("block", "head"):
            parts += convs(layer, decoder[layer])
        for i, stage in enumerate(down):
            parts.append(conv(f"entries.{i}", stage["entry"]))
        for i, (coarse, departs) in enumerate(zip(up, down[::-1], strict=True)):
            for j in range(len(coarse["layers"])):
                own = coarse["layers"][j] | departs["departures"][j]
                parts += convs(f"decoder.{i}.{j}", own)
    return {k: v for part in parts for k, v in part.items()}


@pytest.mark.parametrize("name", training.RECIPES)
def test_losses_and_gradients_agree_with_pytorch(name):
    torch = pytest.importorskip("torch")
    config = small(name)
    if name == "conv VAE":
        # Two stages.
        config.dataset.size = 32
    experiment = assemble(config, 4)
    leaves, structure = jax.tree.flatten(experiment.shapes.params)
    rng = np.random.default_rng(0)
    leaves = [np.float32(0.2 * rng.normal(size=leaf.shape)) for leaf in leaves]
    params = jax.tree.unflatten(structure, leaves)
    split = training.pictures(config, 4)
    batch = {"image": jnp.asarray(split.images), "attributes": split.attributes}
    loss_fn = experiment.loss_fn()
    key, step, dims = jax.random.key(3), jnp.int32(0), config.model.latent_dim
    value, grads = jax.value_and_grad(lambda p: loss_fn(p, {}, batch, key, step)[0])(
        params
    )

    model = training.new_peer(name, config).cpu()
    given = torch_weights(name, params)
    model.load_state_dict({k: torch.tensor(np.array(v)) for k, v in given.items()})
    images = torch.from_numpy(split.images).permute(0, 3, 1, 2).float() / 255
    sizes, keys = [dims], [key]
    if name == "ladder":
        sizes = model.sizes
        keys = jax.random.split(jax.random.fold_in(key, Draw.LAYERS), len(sizes))
    draws = [
        jax.random.normal(k, (4, size)) for k, size in zip(keys, sizes, strict=True)
    ]
    loss = model.loss(images, torch.tensor(np.concatenate(draws, axis=1)))
    assert float(value) == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    expected = torch_weights(name, jax.tree.map(np.asarray, grads))
    for path, parameter in model.named_parameters():
        scale = np.abs(expected[path]).max()
        np.testing.assert_allclose(parameter.grad, expected[path], atol=1e-3 * scale)


def test_both_feeds_train_and_alike():
    config = small("VAE")
    config.optimizer.learning_rate = 1e-3
    split = training.pictures(config, 16)
    losses = []
    for kind in ("device", "stream"):
        train = training.trainer(config, split, kind)
        losses.append([train(10), train(100)])
        assert losses[-1][1] < losses[-1][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# torch.compile brings warnings about torch's own code.
@pytest.mark.filterwarnings("ignore")
def test_the_loops_of_pytorch_train():
    pytest.importorskip("torch")
    config = small("VAE")
    config.optimizer.learning_rate = 1e-3
    split = training.pictures(config, 16)
    rivals = training.peers("VAE", config, split)
    for name, train in rivals.items():
        first = train(1)
        assert train(100) < first, name


@pytest.mark.filterwarnings("ignore")
def test_pytorch_multiplies_in_bfloat16_where_asked():
    torch = pytest.importorskip("torch")
    from benchmarks import torch_models

    seen = []

    class Model(torch_models.AE):
        def loss(self, images, noise):
            seen.append(self.encoder(images.flatten(1)).dtype)
            return super().loss(images, noise)

    for precision in ("fp32", "bf16"):
        train = torch_models.trainer(
            Model(16, 4, 2),
            iter([torch.rand(3, 1, 4, 4)]),
            learning_rate=1e-3,
            weight_decay=0.0,
            best=True,
            precision=precision,
        )
        train(1)
    assert seen == [torch.float32, torch.bfloat16]


def test_runs_in_one_program_are_timed_against_runs_alone(monkeypatch):
    config = small("VAE")
    monkeypatch.setitem(training.RECIPES, "VAE", config.copy_and_resolve_references)
    line = sweep.measure(repeats=1, num_runs=2, num_steps=10)
    assert set(line["rivals"]) == {"vae_jax", "one run after another"}


def test_a_profile_finds_the_kernels_of_a_step(monkeypatch):
    config = small("VAE")
    monkeypatch.setitem(training.RECIPES, "VAE", config.copy_and_resolve_references)
    profile = profiling.measure("VAE", batch_size=4, num_steps=10)
    assert profile["sum"] == pytest.approx(sum(profile["kernels"].values()))
    # Products under one of their names, and the optimiser's arithmetic.
    assert {"dot", "ynn_fusion"} & profile["kernels"].keys()
    assert any(kind.endswith("add_fusion") for kind in profile["kernels"])


def test_rivals_take_turns_and_only_the_warm_up_is_not_counted():
    calls = []
    seconds = timing.in_turn(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3
    )
    assert calls == list("ababab" + "ab")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_rates_are_medians_and_ratios_are_of_the_same_round():
    found = timing.rates({"a": [1.0, 2.0, 4.0], "b": [2.0, 4.0, 12.0]}, 8)
    median_lowest_highest = [found["a"][n] for n in ("median", "lowest", "highest")]
    assert median_lowest_highest == [4.0, 2.0, 8.0] and found["a"]["ratio"] == 1.0
    assert found["b"]["median"] == 2.0 and found["b"]["ratio"] == 2.0
    assert found["b"]["ratio_lowest"] == 2.0 and found["b"]["ratio_highest"] == 3.0


def test_the_floor_counts_the_products_of_a_step():
    config = small("VAE")
    experiment = assemble(config, 4)
    floor = limits.step_floor(experiment, training.pictures(config, 4), 4)
    params = jax.tree.leaves(experiment.initial_state().params)
    weights = [p.size for p in params if p.ndim == 2]
    assert floor["parameters"] == sum(p.size for p in params)
    # Forward, and backward to weights and inputs; the pictures need no gradient.
    products = 2 * 4 * (3 * sum(weights) - 256 * 32)
    assert products < floor["flops"] < 1.3 * products
    assert floor["seconds"] == floor["arithmetic_seconds"] + floor["traffic_seconds"]


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limits, "machine", lambda: {"flops": 1e9, "bytes": 1e9})
    monkeypatch.setattr(training, "peers", lambda *_, **__: {})
    config = small("VAE")
    recipes = dict.fromkeys(("AE", "VAE", "own"), config.copy_and_resolve_references)
    monkeypatch.setattr(training, "RECIPES", recipes)
    monkeypatch.setattr(training, "BATCH_SIZES", {"own": [3]})
    curves = {"vae_jax": [{"at": 16, "median": 2.0}, {"at": 32, "median": 3.0}]}
    figure = {"name": "a", "x": "b", "unit": "ms a step", "curves": curves}
    monkeypatch.setattr(scaling, "measure", lambda: [figure])
    out = tmp_path / "deep" / "found.json"
    options = ["--only", "training", "scaling", "--batch_size=2,4", "--seconds=0"]
    options += ["--repeats=1", "--models", "VAE", "own"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options, f"--out={out}"])
    command.main()
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    lines = found["lines"]
    assert found["scaling"] == [figure] and out.with_suffix(".png").exists()
    for wrong, said in (
        ("--repeats=0", "--repeats is 0"),
        ("--num_images=0", "--num_images is 0"),
        (f"--out={out}/x", "--out is"),
    ):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *options, wrong])
        with pytest.raises(SystemExit):
            command.main()
        assert said in capsys.readouterr().err.splitlines()[-1]
    names = [line["name"] for line in lines]
    assert names == ["VAE, batch 2", "VAE, batch 4", "own, batch 3"]
    for line in lines:
        assert figures.number(line["rivals"]["vae_jax"]["median"]) in printed
        assert line["time_over_floor"] > 0


def test_the_tables_of_the_page_are_those_of_the_results():
    page = tables.PAGE.read_text()
    assert page == tables.fill(page)
    assert page.count("<!-- training ") and page.count("<!-- rest ")


def test_a_table_tells_the_best_rival_and_the_spread_of_its_ratio(
    tmp_path, monkeypatch
):
    figures = {"vae_jax": 2.0, "DataLoader": 8.0, "fused": 4.0, "compiled": 3.0}
    seconds = {
        name if name == "vae_jax" else f"PyTorch, {name}": [t, t, 2 * t]
        for name, t in figures.items()
    }
    seconds["vae_jax"] = [2.0, 1.0, 2.0]
    line = {
        "name": "VAE",
        "unit": "images/s",
        "rivals": timing.rates(seconds, 240),
        "time_over_floor": 1.5,
    }
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "a.json").write_text(json.dumps({"lines": [line]}))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tables.fill("before\n<!-- training a.json -->\nold\n<!-- end -->\nafter\n")
    row = [cell.strip() for cell in page.splitlines()[5].strip("|").split("|")]
    assert row[:5] == ["VAE", "120", "30", "60", "80"]
    assert row[6:] == ["3.00 (1.50 to 3.00)", "1.50"]
    assert "old" not in page and page.startswith("before") and page.endswith("after\n")
