"""Read a gin config without importing anything it names.

Mesh TensorFlow publishes every checkpoint with an `operative_config.gin`. Its syntax is parsed with
gin-config's own parser; its meaning (scopes, partial names, macros) is resolved here as gin does it:
https://github.com/google/gin-config/blob/master/docs/index.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any

from porting.errors import ConfigError

_MISSING = object()


@dataclass(frozen=True)
class Reference:
    """`@scope/module.Name` or `@module.Name()`: something in the original's code, by name."""

    selector: str

    @property
    def name(self) -> str:
        """The last component: `SelfAttention` of `transformer_layers.SelfAttention`."""
        return self.selector.rpartition("/")[2].rpartition(".")[2]


@dataclass(frozen=True)
class Macro:
    """`%name`: the value bound to `name`."""

    name: str


@dataclass(frozen=True)
class Binding:
    """`scope/module.Name.parameter = value`."""

    scope: str
    selector: str
    parameter: str
    value: Any


@dataclass
class GinFile:
    """The bindings of a gin file, asked by scope, configurable and parameter.

    Example:
        gin = read_gin(Path("operative_config.gin"))
        gin.get("decoder", "SelfAttention", "num_heads", default=8)
    """

    path: Path
    bindings: list[Binding] = field(default_factory=list)

    def get(self, scope: str, configurable: str, parameter: str, default: Any = None) -> Any:
        """The bound value with macros resolved, or `default`.

        The innermost matching scope wins; within a scope the last binding wins, as in gin.
        `configurable` is the last component of the name; a longer, dotted one is matched by its end.
        """
        best, depth = _MISSING, -1
        for binding in self.bindings:
            if binding.parameter != parameter or not _ends_with(binding.selector, configurable):
                continue
            binding_depth = _scope_depth(binding.scope, scope)
            if binding_depth is not None and binding_depth >= depth:
                best, depth = binding.value, binding_depth
        return default if best is _MISSING else self._resolve(best)

    def binds(self, configurable: str) -> bool:
        """Whether any parameter of the configurable is bound."""
        return any(_ends_with(binding.selector, configurable) for binding in self.bindings)

    def _resolve(self, value: Any, seen: tuple[str, ...] = ()) -> Any:
        if isinstance(value, Macro):
            if value.name in seen:
                raise ConfigError(f"{self.path}: the macro %{value.name} refers to itself.")
            bound = [b.value for b in self.bindings if not b.parameter and b.selector == value.name]
            if not bound:
                raise ConfigError(f"{self.path}: the macro %{value.name} is used and never given a value.")
            return self._resolve(bound[-1], (*seen, value.name))
        if isinstance(value, list | tuple):
            return type(value)(self._resolve(v, seen) for v in value)
        if isinstance(value, dict):
            return {key: self._resolve(v, seen) for key, v in value.items()}
        return value


def read_gin(path: Path) -> GinFile:
    """Parse a gin file, includes and all.

    Raises:
        ConfigError: the file cannot be read or is not gin, or includes a file that is not to be found.
    """
    gin = GinFile(path)
    gin.bindings.extend(_bindings(path, (path,)))
    return gin


def _bindings(path: Path, chain: tuple[Path, ...]) -> Iterator[Binding]:
    from gin import config_parser

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the config {path}: {error}") from error
    try:
        for statement in config_parser.ConfigParser(text, _delegate(config_parser)):
            if isinstance(statement, config_parser.BindingStatement):
                yield Binding(
                    scope=statement.scope,
                    selector=statement.selector,
                    parameter=statement.arg_name or "",
                    value=statement.value,
                )
            elif isinstance(statement, config_parser.IncludeStatement):
                included = _find_include(path, statement.filename)
                if included in chain:
                    raise ConfigError(f"{path} includes {statement.filename}, which includes it in turn.")
                yield from _bindings(included, (*chain, included))
    # TypeError: a key that cannot be one, such as {[1]: 2}.
    except (SyntaxError, TokenError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"{path} is not a gin file that can be read: {error}",
            remedy="Give an operative_config.gin, or a config.json.",
        ) from error


def _find_include(path: Path, name: str) -> Path:
    """An included file: beside the including one, or beside one of the folders above it."""
    for folder in path.resolve().parents:
        candidate = folder / name
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"{path} includes {name}, which is not to be found beside it.",
        remedy="Give the operative_config.gin that was written beside the checkpoint: it includes nothing.",
    )


def _delegate(config_parser: Any) -> Any:
    """What gin's parser calls for `@reference` and `%macro`: nothing is looked up."""

    class Delegate(config_parser.ParserDelegate):  # type: ignore[misc]
        def configurable_reference(self, scoped_name: str, evaluate: bool) -> Reference:
            del evaluate
            return Reference(scoped_name)

        def macro(self, name: str) -> Macro:
            return Macro(name)

    return Delegate()


def _ends_with(selector: str, configurable: str) -> bool:
    return selector == configurable or selector.endswith("." + configurable)


def _scope_depth(binding_scope: str, scope: str) -> int | None:
    """How many components of `scope` the binding's scope matches; None if it does not apply."""
    wanted = binding_scope.split("/") if binding_scope else []
    have = scope.split("/") if scope else []
    return len(wanted) if have[: len(wanted)] == wanted else None
