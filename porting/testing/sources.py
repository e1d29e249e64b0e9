"""The source code that a function's answer depends on, as one hash, without importing any of it.

Followed are the imports of a module into its own package, into `porting`, and into plain directories on the
path, where originals often lie. What is installed has a version instead.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_INSTALLED = ("site-packages", "dist-packages")


def code_digest(*modules: str) -> str:
    """SHA-256 of the modules' source and of every module that they import; see above.

    The `__init__` of a package that holds one of them counts only if it is imported by name: it lists a whole
    port, and a change of the port's model is none of the original.
    """
    digest = hashlib.sha256()
    for name, path in sorted(source_files(*modules).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def source_files(*modules: str) -> dict[str, Path]:
    """Module name -> file, of the modules and of what they import; see above."""
    own = {name.partition(".")[0] for name in modules} | {"porting"}
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file_of(name, own)
        if path is not None:
            found[name] = path
            for module, names in _imports(path, name, path.stat().st_mtime_ns):
                # `from package import module` as well as `from module import name`.
                below = [f"{module}.{child}" for child in names]
                modules_below = [child for child in below if _file_of(child, own)]
                waiting += modules_below
                if not below or len(modules_below) < len(below):
                    waiting.append(module)
    return found


def module_file(name: str) -> Path | None:
    """The file of a module, found without importing anything; None if there is none."""
    return _file_of(name, {name.partition(".")[0]})


def _file_of(name: str, own: set[str]) -> Path | None:
    """The file of a module to follow; None for what is installed, built in, or no module at all."""
    top, *parts = name.split(".")
    if top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:  # a single file
        path = Path(spec.origin) if spec.origin and not parts else None
    else:
        path = _below([Path(place) for place in spec.submodule_search_locations], parts)
    if path is None or path.suffix != ".py":
        return None
    return path if top in own or not set(_INSTALLED) & set(path.parts) else None


def _below(places: list[Path], parts: list[str]) -> Path | None:
    for place in places:
        folder = place.joinpath(*parts)
        for path in (folder / "__init__.py", folder.with_name(f"{folder.name}.py")):
            if path.is_file() and (parts or path.name == "__init__.py"):
                return path
    return None


@lru_cache(maxsize=1024)
def _imports(path: Path, name: str, _modified: int) -> list[tuple[str, list[str]]]:
    """What a file imports, anywhere in it but for type checkers: modules, each with names from it."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # it counts as it is; whoever imports it will say more
        return []
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[tuple[str, list[str]]] = []
    for node in _runtime(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.append((module, [alias.name for alias in node.names]))
    return found


def _runtime(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _runtime(child)
