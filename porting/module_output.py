"""Which output of which call of a module is meant: `encoder.layer`, `encoder.layer@2`, `encoder.rnn:1`.

A module's path alone means the first output of its first call. `@2` is its third call, for modules that are
used more than once; `:1` is the second of the outputs that it returns, `:hidden` the one of that name. Both
may stand together: `shared.attention@2:1`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

_NAME = re.compile(r"(?P<module>[^@:]*)(?:@(?P<call>\d+))?(?::(?P<output>\w+))?")


@dataclass(frozen=True)
class ModuleOutput:
    """One output of one call of a module.

    Attributes:
        module: the module's path.
        call: number of the call, from 0.
        output: position or name of the output; "" for the first, or the only one.
    """

    module: str
    call: int = 0
    output: str = ""

    def pick(self, returned: Any) -> Any:
        """The output out of what the module returned; None where it is not in it."""
        if not self.output:
            return returned[0] if isinstance(returned, tuple) else returned
        try:
            if self.output.isdecimal():
                return returned[int(self.output)]
            return getattr(returned, self.output, None) if _is_object(returned) else returned[self.output]
        except (LookupError, TypeError):
            return None

    def put(self, returned: Any, value: Any) -> Any:
        """What the module returned, with `value` in the output's place."""
        if not self.output and not isinstance(returned, tuple):
            return value
        key: Any = int(self.output or 0) if (self.output or "0").isdecimal() else self.output
        if isinstance(returned, tuple):
            if isinstance(key, str):
                return returned._replace(**{key: value})  # type: ignore[attr-defined]
            parts = (*returned[:key], value, *returned[key + 1 :])
            return type(returned)._make(parts) if hasattr(returned, "_make") else parts
        changed = copy.copy(returned)
        if _is_object(changed):
            setattr(changed, key, value)
        else:
            changed[key] = value
        return changed


def _is_object(returned: Any) -> bool:
    """Whether outputs are attributes and not items."""
    return not hasattr(returned, "__getitem__") or hasattr(returned, "_fields")


def module_output(name: str, modules: Container[str]) -> ModuleOutput | None:
    """What `name` means among these module paths; None if it is none of them."""
    if name in modules:
        return ModuleOutput(name)
    match = _NAME.fullmatch(name)
    if match is None or match["module"] not in modules:
        return None
    return ModuleOutput(match["module"], int(match["call"] or 0), match["output"] or "")
