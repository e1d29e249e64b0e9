"""Read a gin config without importing anything it names.

Mesh TensorFlow publishes every checkpoint with an `operative_config.gin`. Its syntax is parsed with
gin-config's own parser; its meaning (scopes, partial names, macros) is resolved here as gin does it:
https://github.com/google/gin-config/blob/master/docs/index.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from tokenize import TokenError
from typing import Any

from porting.config_file import read_config_text
from porting.errors import ConfigError

MAX_GIN_BYTES = 1 << 18
"""Longest gin file that is read; an operative config has some ten thousand bytes."""

MAX_FILES = 100
"""Most files that are read for one config: two that include one twice each, and so on, would never end."""

MAX_VALUES = 100_000
"""Most parts of one value, its macros resolved: lists of macros that are lists of macros would never end."""

_MAX_DEPTH = 100
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
    # The bindings of each parameter, and how many bindings there were when they were sorted.
    _by_parameter: dict[str, list[Binding]] = field(default_factory=dict, repr=False, compare=False)
    _sorted: int = field(default=-1, repr=False, compare=False)
    _found: dict[tuple[str, str, str], Any] = field(default_factory=dict, repr=False, compare=False)

    def get(self, scope: str, configurable: str, parameter: str, default: Any = None) -> Any:
        """The bound value with macros resolved, or `default`.

        The innermost matching scope wins; within a scope the last binding wins, as in gin.
        `configurable` is the last component of the name; a longer, dotted one is matched by its end.
        """
        self._sort()
        key = (scope, configurable, parameter)
        if key not in self._found:
            bound = self._bound(*key)
            self._found[key] = _MISSING if bound is _MISSING else self._resolve(bound, (), [MAX_VALUES], 0)
        return default if self._found[key] is _MISSING else self._found[key]

    def _sort(self) -> None:
        if self._sorted == len(self.bindings):
            return
        self._by_parameter, self._found, self._sorted = {}, {}, len(self.bindings)
        for binding in self.bindings:
            self._by_parameter.setdefault(binding.parameter, []).append(binding)

    def _bound(self, scope: str, configurable: str, parameter: str) -> Any:
        best, depth = _MISSING, -1
        for binding in self._by_parameter.get(parameter, ()):
            if not _ends_with(binding.selector, configurable):
                continue
            binding_depth = _scope_depth(binding.scope, scope)
            if binding_depth is not None and binding_depth >= depth:
                best, depth = binding.value, binding_depth
        return best

    def binds(self, configurable: str) -> bool:
        """Whether any parameter of the configurable is bound."""
        return any(_ends_with(binding.selector, configurable) for binding in self.bindings)

    def _resolve(self, value: Any, seen: tuple[str, ...], left: list[int], depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > _MAX_DEPTH:
            raise ConfigError(f"{self.path}: a value is too large, or nested too deeply, for a config.")
        # Larger ones are no sizes, and Python does not print them.
        if isinstance(value, int) and value.bit_length() > 64:
            raise ConfigError(
                f"{self.path}: a number of {value.bit_length()} bits is too large for a config."
            )
        if isinstance(value, Macro):
            if value.name in seen:
                raise ConfigError(f"{self.path}: the macro %{value.name} refers to itself.")
            bound = [b.value for b in self._by_parameter.get("", ()) if b.selector == value.name]
            if not bound:
                raise ConfigError(f"{self.path}: the macro %{value.name} is used and never given a value.")
            return self._resolve(bound[-1], (*seen, value.name), left, depth + 1)
        if isinstance(value, list | tuple):
            return type(value)([self._resolve(v, seen, left, depth + 1) for v in value])
        if isinstance(value, dict):
            keys = [self._resolve(key, seen, left, depth + 1) for key in value]
            return {
                key: self._resolve(v, seen, left, depth + 1)
                for key, v in zip(keys, value.values(), strict=True)
            }
        return value


def read_gin(path: Path, missing: list[str] | None = None) -> GinFile:
    """Parse a gin file, includes and all.

    Args:
        path: the file.
        missing: takes the names of included files that are not to be found; None: such a name is an error.

    Raises:
        ConfigError: the file cannot be read or is not gin, or includes what is not followed or not found.
    """
    gin = GinFile(path)
    gin.bindings.extend(_bindings(path, (path,), [MAX_FILES], missing))
    return gin


def _bindings(
    path: Path, chain: tuple[Path, ...], left: list[int], missing: list[str] | None
) -> Iterator[Binding]:
    from gin import config_parser

    text = read_config_text(path, MAX_GIN_BYTES)
    left[0] -= 1
    if left[0] < 0:
        raise ConfigError(f"{chain[0]} includes more than {MAX_FILES} files.")
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
                if included is None:
                    if missing is None:
                        raise ConfigError(
                            f"{path} includes {statement.filename}, which is not to be found beside it.",
                            remedy="Give the operative_config.gin that was written beside the checkpoint: it"
                            " includes nothing.",
                        )
                    missing.append(statement.filename)
                    continue
                if included in chain:
                    raise ConfigError(f"{path} includes {statement.filename}, which includes it in turn.")
                yield from _bindings(included, (*chain, included), left, missing)
    # TypeError: a key that cannot be one, such as {[1]: 2}.
    except (SyntaxError, TokenError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"{path} is not a gin file that can be read: {error}",
            remedy="Give an operative_config.gin, or a config.json.",
        ) from error


def _find_include(path: Path, name: str) -> Path | None:
    """An included file: beside the including one, or beside one of the folders above it; None: nowhere.

    A name that is no path below a folder, or not that of a gin file, is refused: a config that somebody else
    wrote has no business in this machine's other files.
    """
    parts = PurePosixPath(name).parts
    rooted = PureWindowsPath(name).anchor or PurePosixPath(name).anchor
    if rooted or ".." in parts or not name.endswith(".gin") or not name.isprintable():
        raise ConfigError(
            f"{path} includes {name!r}, which is not followed: only *.gin beside it or its folders is.",
            remedy="Copy that file beside it, and include it by its name.",
        )
    for folder in path.resolve().parents:
        candidate = folder / name
        try:
            if candidate.is_file():
                return candidate
        except OSError:  # a name that is too long
            break
    return None


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
