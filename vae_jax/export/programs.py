"""A model's encoder and decoder as programs that run without this project.

StableHLO needs JAX alone, ONNX any runtime of ONNX. Both compute in float32, whatever
the model was trained in, and take any number of images.
"""

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vae_jax.errors import UserError
from vae_jax.models.contract import code_size, flatten, unflatten

PARTS = ("encoder", "decoder")
PLATFORMS = ("cpu", "cuda", "tpu")
# How far a program may be from the model, relative to the model's largest number.
TOLERANCE = 1e-4


class Part(NamedTuple):
    """What becomes a program.

    Attributes:
      function: function of one array for each name in `takes`, to one array.
      takes: the shapes of what it is given, without the axis of images, by name.
      makes: the name of its result.
    """

    function: Callable[..., Any]
    takes: dict[str, tuple[int, ...]]
    makes: str


def programs(
    model: Any, image_shape: tuple[int, int, int], num_labels: int, *, kind: str
) -> dict[str, bytes]:
    """Returns a model's programs by name, see `parts`; each agrees with the model.

    Args:
      model: see models/contract.py.
      image_shape: (height, width, channels).
      num_labels: A, that the model is told; 0 for none.
      kind: one of `KINDS`.

    Raises:
      UserError: a library is not installed or cannot write this model, or a program
        makes something else.
    """
    found = parts(model, image_shape, num_labels)
    # Not with fewer digits, as a GPU would by itself.
    with jax.default_matmul_precision("highest"):
        return {name: KINDS[kind](name, part) for name, part in found.items()}


def _stablehlo(name: str, part: Part) -> bytes:
    export = _exporter()
    (batch,) = export.symbolic_shape("batch")
    given = [
        jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
        for shape in part.takes.values()
    ]
    with _telling_no_path():
        lowered = export.export(jax.jit(part.function), platforms=PLATFORMS)(*given)
        program = bytes(lowered.serialize())
    found = export.deserialize(bytearray(program))
    _check(f"{name} as StableHLO", part, lambda given: found.call(*given.values()))
    return program


def _onnx(name: str, part: Part) -> bytes:
    # Without calls of compiled functions, whose form has changed since jax 0.10: the
    # operations within are written one by one all the same.
    with _quiet(), jax.disable_jit():
        jax2onnx, onnx_ir, onnxruntime = _onnx_libraries()
        try:
            proto = jax2onnx.to_onnx(
                part.function,
                [("batch", *shape) for shape in part.takes.values()],
                model_name=name,
                input_names=[*part.takes],
                output_names=[part.makes],
            )
            # Runtimes would warn of constants without use, and of the shapes within,
            # which are not always right; these they find by themselves.
            del proto.graph.value_info[:]
            graph = onnx_ir.from_proto(proto)
            onnx_ir.passes.common.RemoveUnusedNodesPass()(graph)
            proto = onnx_ir.to_proto(graph)
            # In some models this axis has another name, which says nothing.
            (made,) = proto.graph.output
            made.type.tensor_type.shape.dim[0].dim_param = "batch"
            program = proto.SerializeToString()
            session = onnxruntime.InferenceSession(
                program, providers=["CPUExecutionProvider"]
            )
        # Neither has errors of its own for what it does not know.
        except Exception as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"--format is onnx, as which the {name} of this config.model cannot be "
                f"written ({told[0]}); allowed for every model is stablehlo"
            ) from error
    _check(f"{name} as ONNX", part, lambda given: session.run(None, given)[0])
    return program


KINDS = {"stablehlo": _stablehlo, "onnx": _onnx}


def parts(
    model: Any, image_shape: tuple[int, int, int], num_labels: int
) -> dict[str, Part]:
    """Returns the parts that become programs, by name, in float32.

    The encoder makes "numbers" [B,N], those in each code, of "images" [B,H,W,C] in
    [0, 1]; the decoder makes "images", their means, of numbers. Of a model that knows
    labels both take "labels" [B,A], too. The encoder of a classifier makes the
    "log_odds" of its attributes, [B,A], and there is no decoder.
    """
    model = nnx.clone(model)
    model.set_attributes(
        raise_if_not_found=False, dtype=jnp.dtype("float32"), by_platform=False
    )
    images = {"images": image_shape}
    if not hasattr(model, "decode"):

        def recognise(images):
            return model.logits(model.features(images))

        return {PARTS[0]: Part(recognise, images, "log_odds")}

    def encode(images, labels=None):
        return flatten(model.encode(images, labels))

    def decode(numbers, labels=None):
        return model.decode(unflatten(numbers, model.code_shape), labels).mean

    numbers = {"numbers": (code_size(model.code_shape),)}
    labels = {"labels": (num_labels,)} if num_labels else {}
    both = (
        Part(encode, images | labels, "numbers"),
        Part(decode, numbers | labels, "images"),
    )
    return dict(zip(PARTS, both, strict=True))


def _check(what: str, part: Part, run: Callable[..., Any]) -> None:
    """Raises UserError where a program makes something else than its part.

    Args:
      what: name of the program.
      part: the part that it was made of.
      run: the program, of arrays by name.
    """
    generator = np.random.default_rng(0)
    given = {
        name: generator.random((3, *shape), np.float32)
        for name, shape in part.takes.items()
    }
    expected = np.asarray(part.function(*map(jnp.asarray, given.values())))
    found, error = run(given), np.inf
    if found.shape == expected.shape:
        error = np.abs(found - expected).max() / np.abs(expected).max()
    if not error < TOLERANCE:
        raise UserError(
            f"the {what} is {error:.2g} from the model, relative to its largest "
            f"number; allowed is {TOLERANCE:g}"
        )


@contextlib.contextmanager
def _telling_no_path() -> Iterator[None]:
    """Keeps out of programs from which lines of which files they come."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what jax2onnx says: of parts of other libraries, and of its own.

    It has parts for what this project does not use, and warns where these do not go
    with this version of JAX.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    # It logs by `logging.info`, which gives a root without a handler one for good.
    root.addHandler(silent)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.removeHandler(silent)


def _exporter() -> ModuleType:
    """Returns JAX's exporter, or raises UserError where what it needs is absent."""
    try:
        import flatbuffers  # noqa: F401
        from jax import export
    except ImportError as error:
        raise UserError(
            'flatbuffers is not installed: pip install -e ".[export]"'
        ) from error
    return export


def _onnx_libraries() -> list[ModuleType]:
    """Returns what writes and what runs ONNX; raises UserError where one is absent."""
    names = ("jax2onnx", "onnx_ir.passes.common", "onnxruntime")
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            'jax2onnx or onnxruntime is not installed: pip install -e ".[onnx]"'
        ) from error
    return [sys.modules[name.split(".")[0]] for name in names]
