"""Finding the checkpoint that the user means, by prefix, by one of its files, or by its directory.

Sources: `tensorflow/python/training/checkpoint_state.proto` (the text file `checkpoint` of a directory) and
`tensorflow/core/util/tensor_bundle/naming.cc` (names of a checkpoint's files).
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from porting.checkpoint.files import named_os_errors, read_file
from porting.checkpoint.leveldb_table import has_magic
from porting.checkpoint.tf_bundle import index_path
from porting.errors import CheckpointError, Problem

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)")
_FILE_OF_CHECKPOINT = re.compile(r"(?P<prefix>.+)\.(index|meta|data-\d{5,}-of-\d{5,})")
_V1_SHARD = r"-\d{5}-of-\d{5}"
_NAMED_CHECKPOINT = re.compile(
    rb'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*"(?P<path>(?:\\.|[^"\\\n])*)"', re.MULTILINE
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))")
_LETTER_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}
# A directory of a long training run names every checkpoint it kept, and still stays far below this.
_MAX_STATE_BYTES = 16 << 20
_MAX_LISTED = 10
_LOOKED_FOR = "a file `checkpoint`, a file *.index, *.safetensors or pytorch_model.bin"


def find_prefix(source: str | Path) -> Path:
    """The prefix of the TensorFlow V2 checkpoint that `source` stands for.

    Example:
        >>> find_prefix("models/small")  # a directory, whose file `checkpoint` names model.ckpt-1000
        PosixPath('models/small/model.ckpt-1000')

    Args:
        source: a prefix (`dir/model.ckpt-1000`), a file of the checkpoint
            (`dir/model.ckpt-1000.index`, `.meta`, `.data-00000-of-00002`), or a directory. Of a directory
            the newest checkpoint is taken, the one that its file `checkpoint` names; without that, the only
            one there is. An absolute path in `checkpoint` is looked up by its last part in the directory
            itself first, because the directory may have been copied from another place.

    Returns:
        A path such that `PATH.index` exists; whether it is sound is for `open_bundle` to say.

    Raises:
        CheckpointError: there is none, or more than one; it is of the V1 format; it is not on this machine.
    """
    url = _URL.match(str(source))
    if url:
        raise _not_local(url["scheme"], url["rest"])
    path = Path(source)
    with named_os_errors(path):
        if index_path(path).exists():
            return path
        if path.is_dir():
            return _newest_in(path)
        if path.name == "checkpoint" and path.exists():
            return _newest_in(path.parent)
        named_file = _FILE_OF_CHECKPOINT.fullmatch(path.name)
        if named_file:
            prefix = path.parent / named_file["prefix"]
            if index_path(prefix).exists():
                return prefix
            raise _not_found(prefix, source)
        raise _not_found(path, source)


def holds_bundle(source: str | Path) -> bool:
    """Whether there is something of a TensorFlow checkpoint where `source` is, sound or not."""
    path = Path(source)
    if _URL.match(str(source)):
        return True
    with named_os_errors(path):
        if index_path(path).exists():
            return True
        return path.is_dir() and ((path / "checkpoint").is_file() or bool(_prefixes_in(path)))


def _newest_in(directory: Path) -> Path:
    """Prefix of the checkpoint that `directory` names in its file `checkpoint`, or of its only one."""
    state = directory / "checkpoint"
    present = _prefixes_in(directory)
    named = _named_in(state) if state.is_file() else None
    if named is not None:
        for prefix in _candidates(directory, named):
            if index_path(prefix).exists():
                return prefix
        wanted = directory / PurePosixPath(named).name
        if _is_v1(wanted):
            raise _v1_error(wanted)
        raise CheckpointError(
            f"{state} names a checkpoint that is not there",
            problems=[Problem(str(state), f"a file {index_path(wanted)}", _listed(present))],
            remedy=f"Copy the files {wanted.name}.* into {directory}, or give the prefix of a checkpoint "
            "that is there instead of the directory.",
        )
    if len(present) == 1:
        return directory / present[0]
    if present:
        raise CheckpointError(
            f"{directory} holds {len(present)} checkpoints, and no file `checkpoint` names the newest",
            problems=[Problem(str(directory), "one *.index", _listed(present))],
            remedy=f"Give the one you mean, such as {directory / present[-1]}.",
        )
    why = "no *.index, and a `checkpoint` file that names none" if state.exists() else "none of them"
    raise CheckpointError(
        f"{directory} holds no checkpoint",
        problems=[Problem(str(directory), _LOOKED_FOR, why)],
        remedy="Give a checkpoint's prefix (model.ckpt-1000 for model.ckpt-1000.index), or the directory "
        "that its files are in.",
    )


def _named_in(state: Path) -> str | None:
    """The `model_checkpoint_path` of a `checkpoint` file, a CheckpointState in text format."""
    found = _NAMED_CHECKPOINT.search(read_file(state, _MAX_STATE_BYTES))
    if not found:
        return None

    def unescape(escape: re.Match[bytes]) -> bytes:
        octal, hexadecimal, letter = escape.groups()
        if letter is not None:
            return _LETTER_ESCAPES.get(letter, letter)
        return bytes([(int(octal, 8) if octal else int(hexadecimal, 16)) & 0xFF])

    return _ESCAPE.sub(unescape, found["path"]).decode("utf-8", "surrogateescape") or None


def _candidates(directory: Path, named: str) -> list[Path]:
    """Where a checkpoint that `directory` names may be, the likeliest place first.

    What lies in the directory itself comes before an absolute path: a copied directory is read where it is,
    even if the place it was copied from is still there.
    """
    # A path that another system wrote may have that system's separators.
    last_part = PureWindowsPath(named).name if "/" not in named else PurePosixPath(named).name
    here = directory / last_part
    # A relative path that leaves the directory is not followed: it was not written for this place.
    if ".." in Path(named).parts:
        return [here]
    return [here, Path(named)] if Path(named).is_absolute() else [directory / named, here]


def _prefixes_in(directory: Path) -> list[str]:
    """Names of the checkpoints in a directory, the oldest step first."""
    files = [path.name for path in directory.iterdir()]
    names = [name.removesuffix(".index") for name in files if name.endswith(".index") and name != ".index"]
    return sorted(names, key=_text_and_numbers)


def _text_and_numbers(name: str) -> list[tuple[str, int]]:
    # Every second part of the split is a run of digits.
    parts = re.split(r"([0-9]+)", name)
    return [(text, int(digits)) for text, digits in zip(parts[::2], [*parts[1::2], "0"], strict=True)]


def _not_found(prefix: Path, source: str | Path) -> CheckpointError:
    if _is_v1(prefix):
        return _v1_error(prefix)
    if not prefix.parent.is_dir():
        return CheckpointError(
            f"there is no checkpoint {source}",
            problems=[Problem(str(source), f"a directory {prefix.parent}", "no such directory")],
        )
    present = _prefixes_in(prefix.parent)
    near = difflib.get_close_matches(prefix.name, present, n=3) or present
    found = "no such file" if not prefix.exists() else "a file that belongs to no TensorFlow checkpoint"
    return CheckpointError(
        f"there is no checkpoint {source}",
        problems=[Problem(str(source), f"a file {index_path(prefix)}", f"{found}; {_listed(near)}")],
        remedy="Give a prefix (model.ckpt-1000 for model.ckpt-1000.index), one of its files, or a directory.",
    )


def _listed(names: list[str]) -> str:
    if not names:
        return "there is no *.index in the directory"
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"the directory has {', '.join(names[-_MAX_LISTED:])}{more}"


def _is_v1(path: Path) -> bool:
    """Whether `path` is a V1 checkpoint: a table as an index is, but with the values in it."""
    if path.is_file():
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 48))
            return has_magic(file.read(48))
    shard = re.compile(re.escape(path.name) + _V1_SHARD)
    return path.parent.is_dir() and any(shard.fullmatch(other.name) for other in path.parent.iterdir())


def _v1_error(path: Path) -> CheckpointError:
    problem = Problem(str(path), f"a V2 checkpoint, with a file {index_path(path).name}", "a V1 checkpoint")
    return CheckpointError(
        f"{path} is a checkpoint of TensorFlow's old V1 format, which is not read here",
        problems=[problem],
        remedy="Load it with TensorFlow and save it again: tf.compat.v1.train.Saver writes V2 by default.",
    )


def _not_local(scheme: str, rest: str) -> CheckpointError:
    url = f"{scheme}://{rest}"
    fetch = f"gsutil -m cp '{url}*' ." if scheme == "gs" else "copy its files into a local directory"
    return CheckpointError(
        f"{url} is not on this machine, and checkpoints are read from local files only",
        problems=[Problem(url, "a local path", f"a {scheme}:// URL", f"download it first: {fetch}")],
    )
