"""Trees of arrays by the names of their leaves, such as "params/encoder/head/bias"."""

from collections.abc import Callable, Mapping
from typing import Any

import jax


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by name."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def map_names(function: Callable[[str], Any], tree: Any) -> Any:
    """Returns a tree with what a function makes of the name of each leaf."""
    return jax.tree.map_with_path(lambda path, _: function(_name(path)), tree)


def replace(tree: Any, given: Mapping[str, Any]) -> Any:
    """Returns a tree with the leaves that are given by name, and else its own."""
    leaves = [given.get(name, leaf) for name, leaf in by_name(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
