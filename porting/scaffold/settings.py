"""What a port's `port.toml` says.

checkpoint = ""                          # of the original; "": tests/make_checkpoint.py makes one
tests = "../tests"                       # where make_checkpoint.py lies
model_card = "../MODEL_CARD.md"
embeddings = ["embeddings"]              # taps with which each stage ends
first_layer = ["encoder.layer.0"]
logits = ["logits"]                      # outputs of the port's `run`, besides the loss
strict = true                            # rounding must explain every difference
original = ["tensorflow"]                # modules that it needs; without them the tests of steps are skipped

[not_applicable]
generation = "an encoder says nothing"   # a step that the architecture does not have, and why
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from porting.errors import ConfigError, Problem
from porting.port import installed_ports, unusable_ports
from porting.testing.sources import module_file

FILE = "port.toml"
# All else belongs to every architecture.
OPTIONAL_STEPS = ("loss", "gradients", "generation", "tokenizer")


@dataclass(frozen=True)
class PortSettings:
    """Of one port; see the top of this module.

    Attributes:
        name: of the port.
        directory: the package that holds it, and `port.toml`.
        checkpoint: None where `tests/make_checkpoint.py` makes one.
        tests: the directory of `make_checkpoint.py`.
        model_card: the file.
        embeddings, first_layer: names of taps.
        logits: names of outputs.
        strict: whether rounding must explain every difference.
        original: modules that running the original needs.
        not_applicable: reasons by step.
    """

    name: str
    directory: Path
    checkpoint: Path | None
    tests: Path
    model_card: Path
    embeddings: tuple[str, ...] = ()
    first_layer: tuple[str, ...] = ()
    logits: tuple[str, ...] = ("logits",)
    strict: bool = True
    original: tuple[str, ...] = ()
    not_applicable: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Modules that the original needs and that are not installed here."""
        return [name for name in self.original if find_spec(name) is None]

    @property
    def file(self) -> Path:
        """`port.toml`."""
        return self.directory / FILE

    @property
    def cache_directory(self) -> Path:
        """Where pytest keeps what the port's tests make: beside the nearest pyproject.toml."""
        above = self.directory.resolve().parents
        root = next((path for path in above if (path / "pyproject.toml").is_file()), self.directory)
        return root / ".pytest_cache" / "d" / "porting"


def settings_of(name: str) -> PortSettings:
    """The settings of an installed port, read without importing it.

    Raises:
        ConfigError: there is no such port, it has no `port.toml`, or that says something else than it may.
    """
    points = [point for point in entry_points(group="porting.ports") if point.name == name]
    file = module_file(points[0].module) if points else None
    if file is None:
        known = ", ".join(sorted({*installed_ports(), *unusable_ports()})) or "none"
        raise ConfigError(
            f"There is no port named {name!r} installed here; there are: {known}.",
            remedy="Install it: pip install --editable DIRECTORY. To begin one: new-port NAME",
        )
    return read_settings(name, file.parent)


def read_settings(name: str, directory: Path) -> PortSettings:
    """The settings of the port in that directory. Raises ConfigError; see `settings_of`."""
    file = directory / FILE
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"The port {name} has no {file}, so that its steps cannot be followed.",
            remedy="new-port writes one; see templates/port/package/port.toml.",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    problems = _problems(content)
    if problems:
        raise ConfigError(f"{file} says what it may not.", problems=problems)
    checkpoint = content.get("checkpoint", "")
    return PortSettings(
        name=name,
        directory=directory,
        checkpoint=directory / checkpoint if checkpoint else None,
        tests=directory / content.get("tests", "tests"),
        model_card=directory / content.get("model_card", "MODEL_CARD.md"),
        embeddings=tuple(content.get("embeddings", ())),
        first_layer=tuple(content.get("first_layer", ())),
        logits=tuple(content.get("logits", ("logits",))),
        strict=content.get("strict", True),
        original=tuple(content.get("original", ())),
        not_applicable=dict(content.get("not_applicable", {})),
    )


def _problems(content: Mapping[str, Any]) -> list[Problem]:
    texts = dict.fromkeys(("checkpoint", "tests", "model_card"), "a path")
    lists = dict.fromkeys(("embeddings", "first_layer", "logits", "original"), "a list of names")
    others = {"strict": "true or false", "not_applicable": "a table of reasons"}
    expected = {**texts, **lists, **others}
    fits: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(texts, lambda value: isinstance(value, str)),
        **dict.fromkeys(lists, _is_names),
        "strict": lambda value: isinstance(value, bool),
        "not_applicable": lambda value: isinstance(value, dict),
    }
    problems = [
        Problem(key, expected[key], repr(value))
        if key in expected
        else Problem(key, f"one of {', '.join(expected)}", "another key")
        for key, value in content.items()
        if key not in expected or not fits[key](value)
    ]
    reasons = content.get("not_applicable", {})
    for step, reason in reasons.items() if isinstance(reasons, dict) else ():
        if step not in OPTIONAL_STEPS:
            expected_steps = f"one of {', '.join(OPTIONAL_STEPS)}"
            problems.append(Problem(f"not_applicable.{step}", expected_steps, "a step that every port has"))
        elif not isinstance(reason, str) or not reason.strip():
            problems.append(Problem(f"not_applicable.{step}", "a reason in words", repr(reason)))
    return problems


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
