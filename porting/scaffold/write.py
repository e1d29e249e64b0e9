"""A new port, written from `templates/port/`: as a package of its own, or into this tree."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from porting.errors import InputError, OutputError, Problem

_TEMPLATE = Path("templates") / "port"
_ENTRY_POINTS = '[project.entry-points."porting.ports"]'
_IN_TREE = Path("porting") / "ports"


@dataclass(frozen=True)
class NewPort:
    """A port that was written.

    Attributes:
        name: of the port.
        package: that holds it, as it is imported.
        directory: the project's, or that of the port in this tree.
        files: all that were written, or changed.
        install: the command that makes the port known.
        tests: the directory of its tests.
    """

    name: str
    package: str
    directory: Path
    files: tuple[Path, ...]
    install: str
    tests: Path

    def to_json(self) -> dict[str, Any]:
        """As `new-port --format json` prints it."""
        return {
            "schema_version": 1,
            "status": "written",
            "port": self.name,
            "package": self.package,
            "directory": str(self.directory),
            "files": [str(path) for path in self.files],
            "install": self.install,
            "tests": str(self.tests),
        }


def template_directory() -> Path:
    """`templates/port/`: of the repository, or where an installed package keeps it.

    Raises:
        OutputError: it is not there.
    """
    package = Path(__file__).resolve().parents[1]
    for root in (package.parent, package):
        if (root / _TEMPLATE / "package").is_dir():
            return root / _TEMPLATE
    raise OutputError(f"{_TEMPLATE} is missing beside {package}.", remedy="Install porting again.")


def new_package(name: str, directory: Path) -> NewPort:
    """Write a port as a package of its own.

    Args:
        name: of the port; its package is `porting_NAME`.
        directory: of the project; must not exist yet.

    Raises:
        InputError: the name cannot be used.
        OutputError: the directory exists, or cannot be written.
    """
    package = f"porting_{name}"
    _check_name(name, package)
    template, words = template_directory(), {"PORT_PACKAGE": package, "PORT_NAME": name}
    words |= {"PORT_TESTS": "../tests", "PORT_CARD": "../MODEL_CARD.md"}
    sources = {Path(path.name): path for path in (template / "project").iterdir()}
    sources[Path(".gitignore")] = sources.pop(Path("gitignore"))
    for folder, target in (("package", package), ("tests", "tests")):
        sources |= {Path(target) / path.name: path for path in _files(template / folder)}
    sources |= {Path(name): template / name for name in ("README.md", "MODEL_CARD.md")}
    files = _write({directory: sources}, words)
    return NewPort(
        name, package, directory, files, f"pip install --editable {directory}", directory / "tests"
    )


def new_in_tree(name: str, root: Path) -> NewPort:
    """Write a port into this tree: `porting/ports/NAME`, `tests/ports/NAME`, and its entry point.

    Args:
        name: of the port.
        root: of the repository.

    Raises:
        InputError: the name cannot be used, or `root` is not this project's repository.
        OutputError: the directories exist, or cannot be written.
    """
    package = f"porting.ports.{name}"
    project = root / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    if _ENTRY_POINTS not in text or not (root / _IN_TREE).is_dir():
        raise InputError(
            f"{root} is not the repository of porting.",
            remedy="Run new-port --in-tree in it, or name it with --to DIRECTORY; without --in-tree the port"
            " becomes a package of its own.",
        )
    _check_name(name, None)
    template, words = template_directory(), {"PORT_PACKAGE": package, "PORT_NAME": name}
    words |= {"PORT_TESTS": f"../../../tests/ports/{name}", "PORT_CARD": "MODEL_CARD.md"}
    home, tests = root / _IN_TREE / name, root / "tests" / "ports" / name
    sources = {Path(path.name): path for path in _files(template / "package")}
    sources |= {Path(name): template / name for name in ("README.md", "MODEL_CARD.md")}
    test_sources = {Path(path.name): path for path in _files(template / "tests")}
    test_sources[Path("__init__.py")] = template / "tests" / "__init__.py"
    files = _write({home: sources, tests: test_sources}, words)
    entry = f'{_ENTRY_POINTS}\n{name} = "{package}.port:PORT"'
    partial = project.with_name("pyproject.toml.partial")
    partial.write_text(text.replace(_ENTRY_POINTS, entry), encoding="utf-8")
    partial.replace(project)
    return NewPort(name, package, home, (*files, project), f"pip install --editable {root}", tests)


def _check_name(name: str, package: str | None) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        expected = "a Python name in lower case: letters, digits, _"
        raise InputError("The port's name cannot be used.", problems=[Problem("NAME", expected, repr(name))])
    taken = [point.value for point in entry_points(group="porting.ports") if point.name == name]
    if taken:
        raise InputError(
            f"There is a port named {name} already: {taken[0]}.",
            remedy=f"Choose another name; how far that one is: new-port --status {name}",
        )
    if package is not None and find_spec(package) is not None:
        raise InputError(
            f"There is a module named {package} already, which the port's package would hide.",
            remedy="Choose another name.",
        )


def _files(folder: Path) -> list[Path]:
    """What a template's folder gives; `tests/__init__.py` is for this tree only."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not (folder.name == "tests" and path.name == "__init__.py")
    ]


def _write(directories: dict[Path, dict[Path, Path]], words: dict[str, str]) -> tuple[Path, ...]:
    """Write directories of files with words replaced: each beside its place, then renamed into it.

    Raises:
        OutputError: one of them exists, or cannot be written.
    """
    problems = [
        Problem(str(path), "a directory that does not exist yet", "one that does")
        for path in directories
        if path.exists() and any(path.iterdir() if path.is_dir() else (path,))
    ]
    if problems:
        raise OutputError("Nothing is overwritten.", problems=problems, remedy="Choose another --to.")
    made: list[tuple[Path, Path]] = []
    try:
        for directory, sources in directories.items():
            directory.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
            partial.chmod(0o755)  # as mkdir makes them, not for oneself alone
            made.append((partial, directory))
            for target, source in sources.items():
                (partial / target).parent.mkdir(parents=True, exist_ok=True)
                text = source.read_text(encoding="utf-8")
                for word, replacement in words.items():
                    text = text.replace(word, replacement)
                (partial / target).write_text(text, encoding="utf-8")
        for partial, directory in made:
            partial.rename(directory)
    except OSError as error:
        raise OutputError(f"The port cannot be written: {error}", remedy="Choose another --to.") from error
    finally:
        for partial, _ in made:
            shutil.rmtree(partial, ignore_errors=True)
    return tuple(directory / target for directory, sources in directories.items() for target in sources)
