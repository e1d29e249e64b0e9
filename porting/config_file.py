"""A config in JSON: Google's `bert_config.json`, a `config.json`, answers to what shapes do not tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from porting.errors import ConfigError


def read_json_config(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError if there is none, or it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the config {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} does not hold a JSON object.")
    return content
