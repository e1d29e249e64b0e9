"""A config in JSON: Google's `bert_config.json`, a `config.json`, answers to what shapes do not tell."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from porting.errors import ConfigError

MAX_CONFIG_BYTES = 16 << 20
"""Longest config that is read; those of models have some thousand bytes."""


def read_json_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError if there is none, or it cannot be read."""
    try:
        content = parse_json(read_config_text(path))
    except ValueError as error:
        raise ConfigError(f"Cannot read the config {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} does not hold a JSON object.")
    return content


def parse_json(text: str | bytes) -> Any:
    """Like `json.loads`, but every text that is no JSON, or none that can be held, is a ValueError.

    Strings with halves of surrogate pairs are refused: they cannot be printed or written.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        content = json.loads(text)
        # A lone surrogate can only come from such an escape.
        if "\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a string that is no text: {error.reason}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return content


def read_config_text(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """The text of a config in UTF-8.

    Raises:
        ConfigError: it cannot be read, is not text, no regular file, or longer than `max_bytes`.
    """
    try:
        # Opening a named pipe would wait for ever, so look before opening.
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise OSError(0, "it is not a regular file")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"it is longer than {max_bytes} bytes")
        # As text files are read: each kind of line end is one.
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the config {path}: {error}") from error
