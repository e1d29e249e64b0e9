"""What the steps look at: the port, a checkpoint of the original, and what both compute."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.convert import convert_checkpoint
from porting.errors import ConfigError, PortingError, ReferenceRunError
from porting.port import Port, ResolvedConfig, port_named
from porting.references.process import run_in_process
from porting.scaffold.settings import PortSettings
from porting.scaffold.unfinished import WRITTEN_IN, shown
from porting.source import resolve_config
from porting.testing.cache import ContentCache
from porting.testing.reference import ReferenceTraces, file_digest

if TYPE_CHECKING:
    from porting.inputs import Inputs
    from porting.trace import Trace

MAKER = "make_checkpoint.py"
# Small: an original is run on them at every step that changes it.
BATCH, LENGTH = 3, 24


class StepFailedError(Exception):
    """A step is not done.

    Args:
        what: what is wrong.
        where: a file, or `path:line`; by default the step's file.
        todo: what to do; by default what the step says.
    """

    def __init__(self, what: str, where: Path | str = "", todo: str = "") -> None:
        super().__init__(what)
        self.where = shown(where) if isinstance(where, Path) else where
        self.todo = todo


@dataclass
class Work:
    """A port under work; everything is made when a step first asks for it."""

    settings: PortSettings
    cache: ContentCache
    forward: Any = None  # the one comparison that several steps look at; see forward.py

    @cached_property
    def port(self) -> Port:
        """The port."""
        try:
            return port_named(self.settings.name)
        except ConfigError as error:
            todo = "Mend what is named above: the port cannot be imported."
            raise StepFailedError(str(error), self.settings.directory, todo) from error

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """A checkpoint of the original: the one that `port.toml` names, or one that is made."""
        given = self.settings.checkpoint
        return open_checkpoint(given if given is not None else self._made())

    def _made(self) -> Path:
        """What `make_checkpoint.py` writes, made again when a file beside it changed that is no test."""
        script = self.settings.tests / MAKER
        if not script.is_file():
            raise StepFailedError(
                "There is no checkpoint of the original.",
                self.settings.file,
                f"Name one in port.toml (checkpoint = ...), or write {script}.",
            )
        beside = sorted(script.parent.glob("*.py"))
        key = {path.name: file_digest(path) for path in beside if not path.name.startswith("test_")}
        return self.cache.entry("checkpoints", key, lambda path: make_checkpoint(script, path))

    @cached_property
    def resolved(self) -> ResolvedConfig:
        """The port's config of the checkpoint."""
        return resolve_config(self.checkpoint, None)[1]

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="porting-steps-")

    @cached_property
    def model_dir(self) -> Path:
        """The checkpoint, converted."""
        path = Path(self._temporary.name) / "model"
        convert_checkpoint(self.checkpoint.path, path)
        return path

    def inputs(self, length: int = LENGTH) -> Inputs:
        """Random inputs, as the port makes them."""
        inputs = self.port.random_inputs(self.resolved.config, BATCH, length, 0)
        self.port.check_inputs(self.resolved.config, inputs)
        return inputs

    @cached_property
    def traces(self) -> ReferenceTraces:
        """Of the original, kept."""
        return ReferenceTraces(self.cache)

    def trace(self, **options: Any) -> Trace:
        """Of the original on `inputs`."""
        return self.traced(self.inputs(), **options)

    def traced(self, inputs: Inputs, **options: Any) -> Trace:
        """Of the original on these inputs."""
        try:
            return self.traces(self.checkpoint.path, inputs, **options)
        except ReferenceRunError as error:
            if error.remedy.startswith(WRITTEN_IN):
                raise
            todo = "Mend the original's side: what it prints and says is above."
            raise StepFailedError(str(error), self.settings.directory / "reference.py", todo) from error


def make_checkpoint(script: Path, directory: Path) -> None:
    """Call `make(directory)` of a Python file in a process of its own, for it may load any framework.

    Raises:
        ReferenceRunError: it raised, or left no checkpoint.
    """
    request = {"script": str(script.resolve()), "directory": str(directory)}
    try:
        run_in_process("porting.scaffold.maker:run", request)
    except ReferenceRunError as error:
        if error.remedy.startswith(WRITTEN_IN):
            raise
        raise StepFailedError(str(error), script, "Mend `make`.") from error
    try:
        open_checkpoint(directory)
    except PortingError as error:
        raise StepFailedError(
            f"make_checkpoint.py left no checkpoint that can be read: {error}", script
        ) from error
