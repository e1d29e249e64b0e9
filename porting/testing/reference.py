"""Traces of the original, kept by content, so that a slow original runs once.

A kept trace is used again while all of this is as it was: the checkpoint's files, the config, the inputs, the
options, the code that runs the original (`sources.py` says what that is), and the versions of the packages
that the trace names in its metadata (`versions`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.testing.cache import ContentCache
from porting.testing.sources import code_digest

if TYPE_CHECKING:
    from porting.trace import Trace
    from porting.workbench import InputsLike


class ReferenceTraces:
    """Runs the original, or hands out the trace of an earlier run.

    Example:
        reference_trace = ReferenceTraces(ContentCache(Path(".cache")))
        trace = reference_trace("checkpoints/small", backward=True)

    Attributes:
        runs: how often the original was run.
    """

    def __init__(self, cache: ContentCache) -> None:
        """Traces go to the kind `traces` of the cache."""
        self._cache = cache
        self.runs = 0

    def __call__(
        self,
        checkpoint: str | Path,
        inputs: InputsLike = None,
        *,
        config: str | Path | None = None,
        seed: int = 0,
        generate: str | None = None,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        backward: bool = False,
    ) -> Trace:
        """The trace that `porting.run_reference` gives for these arguments.

        Raises:
            PortingError: as `run_reference` does; nothing is kept then.
            OutputError: the cache cannot be written.
        """
        from porting.checkpoint import open_checkpoint
        from porting.inputs import DEFAULT_RANDOM
        from porting.references.recorded import recording_beside
        from porting.source import resolve_config
        from porting.trace import read_trace
        from porting.workbench import as_inputs, run_reference

        opened = open_checkpoint(checkpoint)
        port, resolved = resolve_config(opened, config)
        ids = as_inputs(inputs)
        how = port.original_run(resolved.config, list(opened.tensors))
        recording = recording_beside(opened) if how.uses_recording else None
        if ids is not None or seed or generate or backward:
            recording = None  # run_reference takes it only where nothing is asked for that it does not hold
        if ids is None and recording is None:
            ids = port.random_inputs(resolved.config, *DEFAULT_RANDOM, seed)
        targets = [how.target]
        if generate is not None and port.decoding is not None:
            targets.append(port.decoding.reference)
        options = {
            "generate": generate,
            "max_new_tokens": max_new_tokens,
            "num_beams": num_beams,
            "backward": backward,
        }
        key = {
            "port": port.name,
            "config": port.config_to_json(resolved.config),
            "original_config": resolved.original_text,
            "files": {path.name: file_digest(path) for path in opened.files if path.is_file()},
            "inputs": {
                name: [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
                for name, array in (ids.arrays() if ids else {}).items()
            },
            "recording": file_digest(recording) if recording else None,
            "options": options,
            "code": code_digest("porting.original", *(target.partition(":")[0] for target in targets)),
            "targets": targets,
        }

        def run(path: Path) -> None:
            self.runs += 1
            run_reference(
                checkpoint,
                ids,
                config=config,
                save_to=path,
                generate=generate,
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
                backward=backward,
            )

        return read_trace(self._cache.entry("traces", key, run, _made_by_what_is_installed))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read once as long as its size and time stay what they are."""
    facts = path.stat()
    return _file_digest(path.resolve(), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _made_by_what_is_installed(path: Path) -> bool:
    """Whether a kept trace can be read, and its packages are installed here in the same versions."""
    from porting.errors import InputError
    from porting.trace import read_trace

    try:
        versions = read_trace(path).metadata.get("versions", {})
    except InputError:
        return False
    if not isinstance(versions, Mapping):
        return False
    return all(_installed_version(str(name)) in (None, version) for name, version in versions.items())


@lru_cache(maxsize=64)
def _installed_version(name: str) -> str | None:
    """Of a distribution, of the distribution of a module, or of Python; None where nobody can say."""
    if name == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        distributions: Any = importlib.metadata.packages_distributions().get(name, ())
        return importlib.metadata.version(distributions[0]) if distributions else None
