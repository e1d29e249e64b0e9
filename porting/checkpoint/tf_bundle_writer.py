"""TensorFlow's V2 checkpoints ("tensor bundles"), written without TensorFlow: everything but the values.

Whoever writes the values streams them into `PREFIX.data-SSSSS-of-NNNNN`, little-endian and one after another,
and hands over where each lies:

    tensor = BundleTensor("shared/embedding", np.dtype("f4"), (512, 64), 0, 0, 131072, crc32c)
    Path("model.ckpt-7.index").write_bytes(bundle_index([tensor], num_shards=1))
    Path("checkpoint").write_text(checkpoint_state("model.ckpt-7"))

Sources: as of `tf_bundle`, which reads them, and `BundleWriter` in
`tensorflow/core/util/tensor_bundle/tensor_bundle.cc`: equal tensors in equal places give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from porting.checkpoint.leveldb_table import masked
from porting.checkpoint.leveldb_writer import table_bytes
from porting.checkpoint.protobuf_wire import encode_field
from porting.checkpoint.tf_bundle import BUNDLE_VERSION, DTYPES, MAX_SHARDS
from porting.errors import OutputError, Problem

_DTYPE_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_LETTERS = {9: r"\t", 10: r"\n", 13: r"\r", 34: r"\"", 39: r"\'", 92: r"\\"}


@dataclass(frozen=True)
class BundleTensor:
    """A tensor of a bundle, and where its values lie.

    Attributes:
        name: the variable's name.
        dtype: of the values as they are stored; one that `tf_bundle` reads.
        shape: `()` for a scalar.
        shard_id: which data file, from 0.
        offset: of its first byte in that file.
        nbytes: its bytes.
        crc32c: their CRC32C, plain: it is masked where it is stored.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    shard_id: int
    offset: int
    nbytes: int
    crc32c: int


def bundle_index(tensors: Sequence[BundleTensor], num_shards: int) -> bytes:
    """The whole content of `PREFIX.index`.

    Args:
        tensors: in any order.
        num_shards: how many data files there are.

    Raises:
        OutputError: a bundle cannot hold them, or TensorFlow could not read it: a dtype, a name, a number of
            bytes, a data file, a name that is there twice. One problem for each.
    """
    problems = [problem for tensor in tensors for problem in _problems(tensor, num_shards)]
    counts = Counter(tensor.name for tensor in tensors)
    problems += [
        Problem(name, "one tensor of that name", f"{count}") for name, count in counts.items() if count > 1
    ]
    if not 1 <= num_shards <= MAX_SHARDS:
        problems.append(Problem("data files", f"1 to {MAX_SHARDS}", f"{num_shards}"))
    if problems:
        raise OutputError("These tensors do not make a TensorFlow checkpoint.", problems=problems)
    entries = {tensor.name.encode(): _entry(tensor) for tensor in tensors}
    # BundleHeaderProto: 1 num_shards, 2 endianness (0, little, is left out), 3 version (1 producer).
    header = encode_field(1, num_shards) + encode_field(3, encode_field(1, BUNDLE_VERSION))
    return table_bytes({b"": header, **entries})


def checkpoint_state(prefix_name: str) -> str:
    """Text of the file `checkpoint`, a CheckpointState that names the newest checkpoint of its directory.

    Args:
        prefix_name: the prefix without its directory, such as `model.ckpt-7`.
    """
    raw = prefix_name.encode("utf-8", "surrogateescape")
    escaped = "".join(
        _LETTERS.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in raw
    )
    return f'model_checkpoint_path: "{escaped}"\nall_model_checkpoint_paths: "{escaped}"\n'


def _entry(tensor: BundleTensor) -> bytes:
    """A BundleEntryProto, whose fields `tf_bundle._parse_entry` lists; what is 0 is left out."""
    sizes = [encode_field(1, size) if size else b"" for size in tensor.shape]
    out = encode_field(1, _DTYPE_NUMBERS[tensor.dtype])
    out += encode_field(2, b"".join(encode_field(2, size) for size in sizes))
    for number, value in ((3, tensor.shard_id), (4, tensor.offset), (5, tensor.nbytes)):
        out += encode_field(number, value) if value else b""
    crc = masked(tensor.crc32c)
    return out + (encode_field(6, crc, fixed32=True) if crc else b"")


def _problems(tensor: BundleTensor, num_shards: int) -> Iterator[Problem]:
    name = tensor.name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    try:
        tensor.name.encode()
    except UnicodeEncodeError as error:
        yield Problem(name, "a name that UTF-8 can say", str(error))
    # "" is the header's key, and parts of partitioned variables begin with a null byte.
    if not tensor.name or tensor.name.startswith("\0"):
        yield Problem(name or "''", "a name that begins with another character than NUL", repr(tensor.name))
    if tensor.dtype not in _DTYPE_NUMBERS:
        known = ", ".join(map(str, _DTYPE_NUMBERS))
        yield Problem(name, f"one of {known}, little-endian", f"{tensor.dtype!r}")
    elif min(tensor.shape, default=0) < 0 or tensor.nbytes != prod(tensor.shape) * tensor.dtype.itemsize:
        found = f"{tensor.nbytes} bytes"
        yield Problem(name, f"the bytes of {tensor.dtype} of shape {list(tensor.shape)}", found)
    if not 0 <= tensor.shard_id < num_shards:
        yield Problem(name, f"a data file from 0 to {num_shards - 1}", f"{tensor.shard_id}")
    if tensor.offset < 0:
        yield Problem(name, "an offset of 0 or more", f"{tensor.offset}")
    if not 0 <= tensor.crc32c < 1 << 32:
        yield Problem(name, "a CRC32C of 32 bits", f"{tensor.crc32c}")
