"""What the figures were taken on: no names of hosts or places."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path


def machine(directory: Path) -> dict[str, str]:
    """The machine, and the filesystem of a directory."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    found = subprocess.run(
        ["df", "--output=fstype", str(directory)], capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "filesystem": (found.stdout.split() or ["", "unknown"])[-1],
        "python": platform.python_version(),
        "numpy": version("numpy"),
    }


def available_memory() -> int:
    """Bytes that processes can have without swapping; 0 if the kernel does not say."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _text(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.exists() else ""
