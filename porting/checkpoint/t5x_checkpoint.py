"""Checkpoints of T5X and Flax: a msgpack file that is a tree, whose arrays lie in it or beside it.

T5X's version 3 and 2 keep `checkpoint_N/checkpoint`, the tree, with tensorstore's description in place of
each array, and a zarr directory for each. Flax kept everything in one file. Tensors are called by their way
through the tree, below `optimizer` where there is one: `target/encoder/layers_0/mlp/wi/kernel`.

Source: `t5x/checkpoints.py`, `flax/serialization.py`. JAX is not needed; tensorstore reads compressed arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from porting.checkpoint.flax_msgpack import inline_tensor, is_chunked
from porting.checkpoint.lazy import Checkpoint, LazyTensor
from porting.checkpoint.msgpack_walk import walk
from porting.checkpoint.stored import COPY_AGAIN, DataFile
from porting.checkpoint.t5x_specs import PLACEHOLDER, directory_name, is_spec, spec_place
from porting.checkpoint.zarr_array import Declared, ZarrArrays
from porting.errors import CheckpointError, Problem

FORMAT = "t5x"
INDEX = "checkpoint"
# What the optimizer kept beside the weights: large, and nothing that a model is made of.
_STATE = "state/"
# The second: Orbax, given T5X's train state.
_ROOTS = ("optimizer", "_optimizer")


def open_t5x(index: Path) -> Checkpoint:
    """List the tensors of T5X's index, or of a msgpack file that holds all of them.

    Args:
        index: the msgpack file: `checkpoint_N/checkpoint`, or one of any name.

    Returns:
        Its tensors. What has no values here (strings, complex numbers) is listed with dtype `object`, so that
        nothing is hidden, and raises when read. `path` is the directory `checkpoint_N`, or the file.

    Raises:
        CheckpointError: the file is missing or damaged, or what it says of its arrays cannot be; one problem
            for each wrong entry.
    """
    file = DataFile(index)
    tree = walk(file)
    if not isinstance(tree, dict):
        problem = Problem(str(index), "a tree of arrays by name", f"a {type(tree).__name__}", COPY_AGAIN)
        raise CheckpointError(f"{index} is not a checkpoint", problems=[problem])
    version = tree.get("version", 0)
    version = version if type(version) is int else 0
    arrays = ZarrArrays()
    tensors: dict[str, LazyTensor] = {}
    problems: list[Problem] = []
    for name, leaf in _leaves(tree):
        try:
            if name in tensors:
                problems.append(Problem(name, "names that are all different", "it twice", COPY_AGAIN))
            tensors[name] = _tensor(name, leaf, file, arrays, version)
        except CheckpointError as error:
            problems.extend(error.problems or [Problem(name, "a tensor", error.message)])
    if problems:
        raise CheckpointError(f"{index}: {len(problems)} of its entries are wrong", problems=problems)
    return checkpoint_of(index.parent if index.name == INDEX else index, (index,), tensors)


def checkpoint_of(path: Path, index: tuple[Path, ...], tensors: Mapping[str, LazyTensor]) -> Checkpoint:
    """A checkpoint of these tensors.

    No file of this format has checksums of the others, so the values are identified by all files that hold
    any, but for those of the optimizer's state.
    """
    ordered = {name: tensors[name] for name in sorted(tensors)}
    held = [tensor.files for name, tensor in ordered.items()]
    weights = [tensor.files for name, tensor in ordered.items() if not name.startswith(_STATE)]
    files, contents = (
        tuple(dict.fromkeys([*index, *(path for some in lists for path in some)]))
        for lists in (held, weights)
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


def _tensor(name: str, leaf: Any, file: DataFile, arrays: ZarrArrays, version: int) -> LazyTensor:
    directory = file.path.parent
    if isinstance(leaf, dict) and is_spec(leaf):
        place, declared = spec_place(name, leaf, version)
        return arrays.tensor(name, directory / place, declared)
    if isinstance(leaf, str) and leaf.startswith(PLACEHOLDER):
        place = directory_name(name, leaf.removeprefix(PLACEHOLDER))
        return arrays.tensor(name, directory / place, Declared())
    return inline_tensor(name, leaf, file)
