"""The tokenizer's files of a model directory: made by the port, or copied from beside the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.checkpoint.files import read_file

if TYPE_CHECKING:
    from porting.port import Port

# Names that transformers and the originals give them.
FILE_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# mT5's, with 250,000 pieces, are of 4 MB (spiece.model) and 16 MB (tokenizer.json).
MAX_FILE_BYTES = 1 << 26


@dataclass(frozen=True)
class TokenizerFiles:
    """What belongs into the output directory.

    Attributes:
        files: file name -> content.
        notes: what was assumed or left out, in words, one line each.
        texts: how many texts both tokenizers were seen to read alike.
    """

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    texts: int = 0


def tokenizer_files_for(port: Port, directory: Path, config: Any) -> TokenizerFiles:
    """The tokenizer that lies beside a checkpoint, as transformers' AutoTokenizer loads it.

    Args:
        port: of the checkpoint; what it knows of its tokenizers goes first.
        directory: holds the checkpoint.
        config: the port's.

    Returns:
        What the port makes of it; without an answer, copies of the known files that lie there, if any do.

    Raises:
        PortingError: a file cannot be read, or is damaged, or what was made of it reads texts differently.
    """
    made = port.tokenizer_files(directory, config) if port.tokenizer_files else None
    return made if made is not None else copied_tokenizer_files(directory)


def copied_tokenizer_files(directory: Path) -> TokenizerFiles:
    """The known tokenizer files of a directory, as they are.

    Raises:
        CheckpointError: one of them cannot be read, or has more than MAX_FILE_BYTES.
    """
    present = [directory / name for name in FILE_NAMES if (directory / name).is_file()]
    return TokenizerFiles({path.name: read_file(path, MAX_FILE_BYTES) for path in present})
