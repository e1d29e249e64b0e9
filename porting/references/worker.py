"""What runs in the reference process: python -m porting.references.worker module:function.

A line of JSON on stdin is a request, a line on stdout its answer: {"error": null}, or what went wrong.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
from typing import IO

from porting.errors import PortingError


def main(target: str) -> None:
    """Call the target with each request, until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # Whatever the original prints, from C++ too, must not be taken for an answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, requests), daemon=True).start()
    module, _, name = target.partition(":")
    while True:
        request = json.loads(requests.get())
        error = None
        try:
            getattr(importlib.import_module(module), name)(request)
        except PortingError as problem:
            message = str(problem).removesuffix(problem.remedy).rstrip()
            error = {"message": message, "remedy": problem.remedy}
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


def _read(lines: IO[str], requests: queue.Queue[str]) -> None:
    """Hand on the lines; where they end nobody waits for an answer any more, not even for one begun."""
    for line in lines:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
