"""Reading checkpoints, each as its names, shapes and dtypes, and its values when asked for.

`lazy` says what any checkpoint is to the rest of the project, `locate` finds the one that is meant, and one
module for each format reads it: `tf_bundle` for TensorFlow's (with `leveldb_table`, `protobuf_wire`,
`tf_slices` and `tf_shards` below it), `safetensors_file` and `pytorch_file` for what PyTorch originals are
kept in (`joined_files` for those in several files), `t5x_checkpoint` for T5X's and Flax's (with
`t5x_locate`, `t5x_specs`, `flax_msgpack`, `msgpack_walk`, `orbax_metadata` and `zarr_array` below it;
`t5x_writer` writes one). None of them imports TensorFlow or JAX, and only one PyTorch, when it is needed.
"""

from __future__ import annotations

from pathlib import Path

from porting.checkpoint.lazy import Checkpoint, LazyTensor
from porting.checkpoint.locate import find_prefix, holds_bundle
from porting.checkpoint.pytorch_file import find_pytorch, open_pytorch
from porting.checkpoint.safetensors_file import find_safetensors, open_safetensors
from porting.checkpoint.t5x_checkpoint import open_t5x
from porting.checkpoint.t5x_locate import find_t5x, newest_t5x
from porting.checkpoint.tf_bundle import open_bundle

__all__ = ["Checkpoint", "LazyTensor", "open_checkpoint"]


def open_checkpoint(source: str | Path) -> Checkpoint:
    """List a checkpoint's tensors without reading their values, or needing the files that hold them.

    Example:
        >>> checkpoint = open_checkpoint("models/small")
        >>> embedding = checkpoint.tensors["shared/embedding"].read()

    Args:
        source: a checkpoint's prefix, one of its files, or a directory; see `locate.find_prefix`. A
            safetensors file, or a directory that holds one and no TensorFlow checkpoint, is one too; after
            those, a file of `torch.save`, or a directory that holds `pytorch_model.bin` or its index. Of
            T5X: a directory `checkpoint_N`, its file `checkpoint`, the directory that holds some of them (the
            one of the largest N is taken), or a msgpack file of Flax that holds all arrays; or a directory of
            Orbax.

    Raises:
        CheckpointError: there is no such checkpoint, or its index is missing, unreadable or corrupt.
    """
    path = Path(source)
    # Before TensorFlow's, whose directories have a file `checkpoint` as well.
    if (found := find_t5x(path)) is not None:
        return open_t5x(found.index, found.path)
    if holds_bundle(source):
        return open_bundle(find_prefix(source))
    if (held := find_safetensors(path)) is not None:
        return open_safetensors(held)
    if (held := find_pytorch(path)) is not None:
        return open_pytorch(held)
    if (found := newest_t5x(path)) is not None:
        return open_t5x(found.index, found.path)
    return open_bundle(find_prefix(source))
