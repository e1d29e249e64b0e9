"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The commands that are measured.
CP, SYNC, CONVERT, UNVERIFIED, LOADER = "cp", "cp, sync", "convert-checkpoint", "--no-verify", "transformers"


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: times as ratios, and memory."""
    lines = [
        "| | seconds | of `cp` | of `cp`, `sync` | without start-up | of `cp` | CPU | peak memory"
        " | of it mapped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        lines.append(f"| **{result['size']}**, {result['bytes_read'] / 1e9:.2f} GB read | | | | | | | | |")
        cases = result["cases"]
        # `cp` copied the slots too, unless they are as large as the weights.
        share = result["bytes_read"] / result["bytes_of_cp"]
        plain, synced = (share * cases[name]["seconds"] for name in (CP, SYNC))
        for name, case in cases.items():
            inside = case.get("seconds_without_startup")
            cells = [
                f"{case['seconds']:.2f}",
                f"{case['seconds'] / plain:.2f}x",
                f"{case['seconds'] / synced:.2f}x",
                f"{inside:.2f}" if inside else "",
                f"{inside / plain:.2f}x" if inside else "",
                f"{case['cpu_seconds']:.2f}",
            ]
            if name not in (CP, SYNC):
                cells += [f"{case['peak_bytes'] / 1e6:.0f} MB", f"{case['mapped_bytes'] / 1e6:.0f} MB"]
            else:
                cells += ["", ""]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        if LOADER in cases:
            ratio = cases[LOADER]["seconds"] / cases[CONVERT]["seconds"]
            lines.append(f"| transformers / convert-checkpoint | {ratio:.1f}x | | | | | | | |")
    return lines


def disk_line(results: Sequence[dict[str, Any]]) -> str:
    """How fast the disk was, by the largest copy."""
    largest = max(results, key=lambda result: result["bytes_of_cp"])
    speeds = [largest["bytes_of_cp"] / largest["cases"][name]["seconds"] / 1e9 for name in (CP, SYNC)]
    return f"cp {speeds[0]:.1f} GB/s, with sync {speeds[1]:.1f} GB/s"


def show(results: Sequence[dict[str, Any]], about: dict[str, str]) -> None:
    """On stdout."""
    print("\n".join(table(results)))
    print(f"\n{', '.join(f'{name}: {value}' for name, value in about.items())}")
