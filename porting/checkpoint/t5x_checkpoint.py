"""Checkpoints of T5X and Flax: a msgpack file that is a tree, whose arrays lie in it or beside it.

T5X's version 3 and 2 keep `checkpoint_N/checkpoint`, the tree, with tensorstore's description in place of
each array, and a zarr directory for each. Flax kept everything in one file. Orbax writes names of the arrays
there, or no msgpack at all. Tensors are called by their way through the tree, below `optimizer` where there
is one: `target/encoder/layers_0/mlp/wi/kernel`.

Source: `t5x/checkpoints.py`, `flax/serialization.py`. JAX is not needed; tensorstore reads compressed arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from porting.checkpoint.flax_msgpack import inline_tensor, is_chunked
from porting.checkpoint.lazy import Checkpoint, LazyTensor
from porting.checkpoint.msgpack_walk import walk
from porting.checkpoint.orbax_metadata import METADATA, orbax_leaves, orbax_texts
from porting.checkpoint.stored import COPY_AGAIN, DataFile
from porting.checkpoint.t5x_specs import FIRST_WITH_BFLOAT16, PLACEHOLDER, directory_name, is_spec, spec_place
from porting.checkpoint.zarr_array import Declared, ZarrArrays
from porting.checkpoint.zarr_store import open_store
from porting.errors import CheckpointError, Problem

FORMAT = "t5x"
INDEX = "checkpoint"
# What the optimizer kept beside the weights: large, and nothing that a model is made of.
_STATE = "state/"
# The second: Orbax, given T5X's train state.
_ROOTS = ("optimizer", "_optimizer")


def open_t5x(index: Path, path: Path) -> Checkpoint:
    """List the tensors of T5X's index, of a msgpack file that holds all of them, or of Orbax's `_METADATA`.

    Args:
        index: the file: `checkpoint_N/checkpoint`, one of any name, `checkpoint_N/state/_METADATA`.
        path: what the checkpoint is called: the directory `checkpoint_N`, or the file.

    Returns:
        Its tensors. What has no values here (strings, complex numbers) is listed with dtype `object`, so that
        nothing is hidden, and raises when read.

    Raises:
        CheckpointError: the file is missing or damaged, or what it says of its arrays cannot be; one problem
            for each wrong entry.
    """
    file = DataFile(index)
    leaves, version = _orbax(index) if index.name == METADATA else _msgpack(file)
    store = open_store(index.parent)
    arrays, texts = ZarrArrays(store), orbax_texts(index.parent)
    tensors: dict[str, LazyTensor] = {}
    problems: list[Problem] = []
    for name, leaf in leaves:
        try:
            if name in tensors:
                problems.append(Problem(name, "names that are all different", "it twice", COPY_AGAIN))
            tensors[name] = _tensor(name, leaf, file, arrays, version, texts)
        except CheckpointError as error:
            problems.extend(error.problems or [Problem(name, "a tensor", error.message)])
    if problems:
        raise CheckpointError(f"{index}: {len(problems)} of its entries are wrong", problems=problems)
    return _checkpoint(path, index, tensors)


def _orbax(index: Path) -> tuple[list[tuple[str, Any]], int]:
    """Leaves, and the version, of which Orbax knows nothing."""
    return list(orbax_leaves(index)), FIRST_WITH_BFLOAT16


def _msgpack(file: DataFile) -> tuple[list[tuple[str, Any]], int]:
    """Leaves and version."""
    tree = walk(file)
    if not isinstance(tree, dict):
        found = f"a {type(tree).__name__}"
        problem = Problem(str(file.path), "a tree of arrays by name", found, COPY_AGAIN)
        raise CheckpointError(f"{file.path} is not a checkpoint", problems=[problem])
    version = tree.get("version", 0)
    return list(_leaves(tree)), version if type(version) is int else 0


def _checkpoint(path: Path, index: Path, tensors: Mapping[str, LazyTensor]) -> Checkpoint:
    """A checkpoint of these tensors.

    No file of this format has checksums of the others, so the values are identified by all files that hold
    any, but for those of the optimizer's state.
    """
    ordered = {name: tensors[name] for name in sorted(tensors)}
    held = [tensor.files for name, tensor in ordered.items()]
    weights = [tensor.files for name, tensor in ordered.items() if not name.startswith(_STATE)]
    files, contents = (
        tuple(dict.fromkeys([index, *(file for some in lists for file in some)])) for lists in (held, weights)
    )
    return Checkpoint(path, FORMAT, ordered, files, contents)


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is no map of further things, by its way through the tree; None is nothing."""
    for key, branch in tree.items():
        if key in _ROOTS and isinstance(branch, dict):
            yield from _below("", branch)
        elif key != "version":
            yield from _below(key, branch)


def _below(name: str, branch: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(branch, list):
        branch = {str(i): element for i, element in enumerate(branch)}
    if isinstance(branch, dict) and not is_spec(branch) and not is_chunked(branch):
        for key, further in branch.items():
            yield from _below(f"{name}/{key}" if name else key, further)
    elif branch is not None:
        yield name, branch


def _tensor(
    name: str, leaf: Any, file: DataFile, arrays: ZarrArrays, version: int, texts: Set[str]
) -> LazyTensor:
    if isinstance(leaf, dict) and is_spec(leaf):
        place, declared = spec_place(name, leaf, version)
        return arrays.tensor(name, place, declared)
    if isinstance(leaf, str) and leaf.startswith(PLACEHOLDER):
        place = directory_name(name, leaf.removeprefix(PLACEHOLDER))
        if place in texts:
            return inline_tensor(name, leaf, file)
        return arrays.tensor(name, place, Declared())
    return inline_tensor(name, leaf, file)
