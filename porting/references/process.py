"""Start an original implementation in a process of its own, and ask it for traces.

A process of its own, because two frameworks in one process share threads, memory and signal handlers, and
because a reference must not see the port. Requests go in and answers come back as lines of JSON; traces and
other arrays come back as files that the request names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import porting
from porting.errors import ReferenceRunError

REFERENCE_PYTHON = "PORTING_REFERENCE_PYTHON"
_SHOWN_LINES = 15
_PATIENCE = 5.0  # seconds that a process gets to end by itself, its input closed


class ReferenceProcess:
    """A process that stays up and calls one function for each request.

    Bringing up a framework takes seconds, and a function may keep what it built for the next request. The
    process starts with the first call, starts again after it died, and ends when the block does or when its
    parent is gone, whatever it is doing then.

    Example:
        with ReferenceProcess("package.module:function") as process:
            process.call({"inputs": "folder", "trace": "other folder"})
    """

    def __init__(self, target: str, cwd: Path | None = None, python: str | None = None) -> None:
        """Nothing is started yet.

        Args:
            target: "package.module:function"; the function takes a request and leaves files behind.
            cwd: where the process runs; the current directory by default.
            python: the interpreter of an environment in which the original is installed; by default what
                the environment variable PORTING_REFERENCE_PYTHON names, else the one that runs this.
        """
        self._target, self._cwd = target, cwd
        self._python = python or os.environ.get(REFERENCE_PYTHON) or sys.executable
        self._process: subprocess.Popen[str] | None = None
        self._printed: IO[bytes] | None = None

    def call(self, request: Mapping[str, Any]) -> None:
        """Call the function with `request` (anything JSON can say), and wait for its end.

        Raises:
            ReferenceRunError: the function raised, or the process died; says what it printed last.
        """
        process = self._process or self._start()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(dict(request)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._died(process)
        error = json.loads(line)["error"]
        if error:
            raise ReferenceRunError(error["message"], remedy=error["remedy"])

    def _start(self) -> subprocess.Popen[str]:
        self._printed = tempfile.TemporaryFile(prefix="porting-reference-")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [self._python, "-m", "porting.references.worker", self._target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A file, not a pipe that would have to be read for the process to go on.
                stderr=self._printed,
                text=True,
                encoding="utf-8",
                cwd=self._cwd,
                env=self._environment(),
            )
        except OSError as error:
            self.close()
            raise ReferenceRunError(
                f"{self._python} cannot be started: {error}",
                remedy="Name the Python in which the original is installed: --reference-python"
                f" ENVIRONMENT/bin/python, or the environment variable {REFERENCE_PYTHON}.",
            ) from error
        return self._process

    def _environment(self) -> dict[str, str] | None:
        """Another interpreter finds this package, whether or not it is installed there."""
        if self._python == sys.executable:
            return None
        paths = (str(Path(porting.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def _died(self, process: subprocess.Popen[str]) -> ReferenceRunError:
        code = process.wait()
        assert self._printed
        self._printed.seek(0)
        lines = self._printed.read().decode("utf-8", "replace").strip().splitlines()[-_SHOWN_LINES:]
        self.close()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return ReferenceRunError(
            f"The original implementation ended with {how}. It printed last:\n" + "\n".join(lines)
        )

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin and process.stdout
            with suppress(BrokenPipeError):  # it is gone already
                process.stdin.close()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self._printed is not None:
            self._printed.close()
            self._printed = None

    def __enter__(self) -> ReferenceProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_in_process(
    target: str, request: Mapping[str, Any], cwd: Path | None = None, python: str | None = None
) -> None:
    """Call `module:function` with `request` in a new Python process. As `ReferenceProcess`, for one request.

    Raises:
        ReferenceRunError: the function raised, or the process died; says what it printed last.
    """
    with ReferenceProcess(target, cwd, python) as process:
        process.call(request)
