"""Start an original implementation in a process of its own and wait for its trace.

A process of its own, because two frameworks in one process share threads, memory and signal handlers, and
because a reference must not see the port. The request goes in as JSON, the trace comes back as a directory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from porting.errors import ReferenceRunError

ERROR_FILE = "error.json"
_SHOWN_LINES = 15


def run_in_process(target: str, request: Mapping[str, Any], cwd: Path | None = None) -> None:
    """Call `module:function` with `request` in a new Python process.

    Args:
        target: "package.module:function"; the function takes the request and leaves files behind.
        request: anything JSON can say.
        cwd: where the process runs; the current directory by default.

    Raises:
        ReferenceRunError: the function raised, or the process died; says what it printed last.
    """
    with tempfile.TemporaryDirectory(prefix="porting-reference-") as folder:
        work = Path(folder)
        (work / "request.json").write_text(json.dumps(dict(request)), encoding="utf-8")
        command = [sys.executable, "-m", "porting.references.worker", target, folder]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
        if result.returncode == 0:
            return
        error = work / ERROR_FILE
        if error.exists():
            content = json.loads(error.read_text(encoding="utf-8"))
            raise ReferenceRunError(content["message"], remedy=content["remedy"])
        lines = (result.stderr or result.stdout).strip().splitlines()[-_SHOWN_LINES:]
        how = f"signal {-result.returncode}" if result.returncode < 0 else f"exit code {result.returncode}"
        raise ReferenceRunError(
            f"The original implementation ended with {how}. It printed last:\n" + "\n".join(lines)
        )
