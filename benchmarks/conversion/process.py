"""Run a command: its time, and its memory as the kernel counts it."""

from __future__ import annotations

import contextlib
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.01
_KB = re.compile(r"^(VmHWM|RssAnon|RssFile):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of a command.

    Attributes:
        seconds: from before it is started until it has ended.
        cpu: seconds that processors worked for it, the kernel included; other load does not change them much.
        peak: bytes of resident memory, the highest there were (VmHWM).
        anonymous, mapped: of the sample with the most: the process's own bytes, and those of mapped files,
            which the kernel may take back at any time.
        output: what it wrote to stdout.
    """

    seconds: float
    cpu: float
    peak: int
    anonymous: int
    mapped: int
    output: str


def run(command: Sequence[str]) -> Run:
    """Run a command to its end, and look at its memory every 10 ms.

    Not `ru_maxrss`: that begins with the resident memory of whoever starts the process.

    Raises:
        SystemExit: it failed; with what it said.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        cpu_before = _cpu_of_children()
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        status = Path(f"/proc/{process.pid}/status")
        peak = most = 0
        parts = (0, 0)
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    # A process that has ended but was not waited for has no memory any more.
                    sizes = {name: 1024 * int(size) for name, size in _KB.findall(status.read_text())}
                    peak = max(peak, sizes.get("VmHWM", 0))
                    now = (sizes.get("RssAnon", 0), sizes.get("RssFile", 0))
                    if sum(now) > most:
                        most, parts = sum(now), now
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SAMPLE_SECONDS)
            seconds = time.perf_counter() - begin
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(
                f"{' '.join(command)[:300]}\nfailed ({process.returncode}):\n{err.read()[-2000:]}"
            )
        return Run(seconds, _cpu_of_children() - cpu_before, peak, *parts, out.read())


def _cpu_of_children() -> float:
    """Of those that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
