"""Memory and time of LongT5's encoder against the length of its input.

    python -m benchmarks.long_t5                                # two layers of base size
    python -m benchmarks.long_t5 --lengths 1024,4096 --rounds 1 --layers 12 --size large
    python -m benchmarks.long_t5 --json build/long_t5.json      # figures, too

Beside it: transformers' LongT5, and a T5 of the same size, each of whose positions sees all others. Each
point is a process of its own, which builds the encoder, runs it on a few tokens, and then once on the row
that is measured, without gradients, in float32. Time is the processor's, which other programs lengthen least.
Memory is the most that was resident (VmHWM) beyond what was before the run. Rounds alternate; medians are
shown. A contender that would need more than `--most` GB is stopped before: its memory is taken to grow as it
grew from the length before.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from porting.ports.t5.long_config import LongT5Config
from porting.ports.t5.presets import preset

# Contender -> how to build it, and the preset whose encoder it is.
CONTENDERS = {
    "local": ("port", "long-t5-local-{}"),
    "local, transformers": ("transformers", "long-t5-local-{}"),
    "transient-global": ("port", "long-t5-tglobal-{}"),
    "transient-global, transformers": ("transformers", "long-t5-tglobal-{}"),
    "full attention": ("port", "t5.1.1.{}"),
}
LENGTHS = (1024, 2048, 4096, 8192, 16384)
_MB, _GB = 1e6, 1e9
_FIRST = 256  # tokens of the run that is not measured
_VOCABULARY = 1024  # the embedding is not what is measured


def measure(contender: str, length: int, size: str, layers: int) -> dict[str, float]:
    """In this process: seconds of one run, and the bytes that it needed beyond what was there before."""
    import torch

    torch.manual_seed(0)
    run = _encoder(contender, size, layers)
    ids = torch.randint(2, _VOCABULARY, (1, length))
    with torch.no_grad():
        run(ids[:, :_FIRST])
        before = _status("VmRSS")
        began = time.process_time()
        run(ids)
        seconds = time.process_time() - began
    return {"seconds": seconds, "bytes": _status("VmHWM") - before}


def _encoder(contender: str, size: str, layers: int) -> Callable[[Any], object]:
    """Calls an encoder of random weights on ids [1, length]."""
    kind, name = CONTENDERS[contender]
    small = {"num_layers": layers, "num_decoder_layers": 1, "vocab_size": _VOCABULARY}
    config = replace(preset(name.format(size)), **small)  # type: ignore[arg-type]
    if kind == "port":
        from porting.ports.t5.model import T5Model

        model = T5Model(config).eval()
        return lambda ids: model.encode(ids, ids.clamp(max=1))
    import transformers

    assert isinstance(config, LongT5Config)
    theirs = transformers.LongT5EncoderModel(transformers.LongT5Config(**config.to_json())).train(False)
    return lambda ids: theirs(input_ids=ids, attention_mask=ids.clamp(max=1))


def _status(key: str) -> int:
    """Bytes, from /proc/self/status. VmHWM, unlike `ru_maxrss`, does not begin with the parent's memory."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def in_a_process(contender: str, length: int, size: str, layers: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.long_t5", "--one", contender, "--lengths", str(length)]
    command += ["--size", size, "--layers", str(layers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(figures: Mapping[str, Mapping[int, Mapping[str, float]]], lengths: Sequence[int]) -> str:
    """Markdown: seconds and memory of each contender at each length, and how they grow to the last one."""
    head = [f"{length:,}" for length in lengths]
    ratio = f"{lengths[-1]:,} / {lengths[-2]:,}" if len(lengths) > 1 else "growth"
    lines = [f"| | {' | '.join(head)} | {ratio} |", "|---" * (len(head) + 2) + "|"]
    for unit, key, scale in (("MB", "bytes", _MB), ("s", "seconds", 1.0)):
        for contender, points in figures.items():
            values = {length: point[key] / scale for length, point in points.items()}
            digits = 0 if unit == "MB" else 2
            cells = [f"{values[n]:,.{digits}f}" if n in values else "stopped" for n in lengths]
            grown = [values.get(length) for length in lengths[-2:]]
            growth = f"{grown[1] / grown[0]:.1f}x" if len(grown) == 2 and grown[0] and grown[1] else ""
            lines.append(f"| {contender}, {unit} | {' | '.join(cells)} | {growth} |")
    return "\n".join(lines)


def run_all(arguments: argparse.Namespace) -> dict[str, dict[int, dict[str, float]]]:
    """Medians of all points, contender -> length -> figures."""
    figures: dict[str, dict[int, dict[str, float]]] = {name: {} for name in CONTENDERS}
    needed: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for length in arguments.lengths:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(arguments.rounds):
            for name in CONTENDERS:
                if _foreseen(needed[name]) > arguments.most * _GB:
                    continue
                rounds[name].append(in_a_process(name, length, arguments.size, arguments.layers))
        for name, points in rounds.items():
            if points:
                keys = ("seconds", "bytes")
                figures[name][length] = {key: statistics.median(p[key] for p in points) for key in keys}
                needed[name].append(figures[name][length]["bytes"])
            else:
                needed[name].append(float("inf"))
            print(f"{length} {name}: {figures[name].get(length, 'stopped')}", file=sys.stderr)
    return figures


def _foreseen(needed: Sequence[float]) -> float:
    """Bytes at the next length: as many times the last as that was of the one before."""
    if len(needed) < 2:
        return needed[-1] if needed else 0.0
    return needed[-1] * max(1.0, needed[-1] / needed[-2]) if needed[-1] < float("inf") else needed[-1]


def _lengths(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=_lengths, default=list(LENGTHS), help="tokens, with commas between")
    parser.add_argument("--size", default="base", choices=("base", "large", "xl"))
    parser.add_argument("--layers", type=int, default=2, help="of the encoder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=float, default=6.0, help="GB that a contender may need")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.lengths[0], arguments.size, arguments.layers)))
        return
    figures = run_all(arguments)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(table(figures, arguments.lengths))


if __name__ == "__main__":
    main()
