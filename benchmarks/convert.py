"""How long a conversion takes beside `cp` of the same bytes, and in how much memory.

    python -m benchmarks.convert                                # T5-base, with Adafactor's slots
    python -m benchmarks.convert --sizes base,large,3b --json build/conversion.json
    python -m benchmarks.convert --momentum                     # slots as large as the weights, too
    python -m benchmarks.convert --format t5x                   # as T5X saves it, compressed; or t5x-scanned
    python -m benchmarks.convert --transformers ENV/bin/python  # and transformers' own loader
    python -m benchmarks.convert --show build/*.json            # print again what was measured

Makes checkpoints of these sizes with random values, streamed to disk, and removes them afterwards, on
Ctrl-C too. Then runs in turn, so that a machine that slows down slows all: `cp` of a file of as many bytes
as were read, `sync` of the copy, `convert-checkpoint`, the same with `--no-verify`. Files are in the page
cache as far as they fit, but with `--cold`; whatever is still to be written is written before each run.

Times are those of whole processes; without start-up, what the command itself says ("seconds" of its JSON).
CPU seconds are what is left to compare on a machine that is busy. The converter syncs what it writes and
plain `cp` does not: both ratios are printed. Peak memory is VmHWM of the process; what of it was mapped
files is taken from the largest sample, one every 10 ms.

What it prints are medians and Markdown, for docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.conversion.bundle import Bundle, bundle_bytes, write_bundle, write_random
from benchmarks.conversion.machine import available_memory, machine
from benchmarks.conversion.process import Run, run
from benchmarks.conversion.table import CONVERT, CP, LOADER, SYNC, UNVERIFIED, disk_line, show

BUNDLE, T5X, SCANNED = "bundle", "t5x", "t5x-scanned"
SIZES = {"tiny": "t5-efficient-tiny", "base": "t5.1.0.base", "large": "t5.1.0.large", "3b": "t5.1.0.3B"}
CONVERTER = "from porting.cli import convert_checkpoint_command as command; command()"
# What the conversion script of transformers did; the script itself is not in the package.
LOADER_IMPORTS = """
import sys, tensorflow
from transformers import T5Config, T5ForConditionalGeneration, load_tf_weights_in_t5
"""
LOADER_CODE = f"""{LOADER_IMPORTS}
prefix, config_file, output = sys.argv[1:]
config = T5Config.from_json_file(config_file)
load_tf_weights_in_t5(model := T5ForConditionalGeneration(config), config, prefix)
model.save_pretrained(output)
"""
ENVIRONMENT = """\
{python} does not have what transformers' loader needs:
{reason}
Make an environment for it:
  python3 -m venv ENV
  ENV/bin/pip install 'transformers==4.57.6' 'torch' 'tensorflow-cpu'
and give --transformers ENV/bin/python; 4.57 was the last release with this loader."""
# Of a model's own bytes: what a filesystem needs besides.
SPARE = 1.05
# The share of the memory that the loader may take.
SAFE = 0.85


@dataclass
class Case:
    """The runs of one command."""

    runs: list[Run] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Medians of times, maxima of memory, in seconds and bytes."""
        largest = max(self.runs, key=lambda run: run.peak)
        content: dict[str, Any] = {
            "seconds": statistics.median(run.seconds for run in self.runs),
            "all_seconds": [run.seconds for run in self.runs],
            "cpu_seconds": statistics.median(run.cpu for run in self.runs),
            "peak_bytes": largest.peak,
            "anonymous_bytes": largest.anonymous,
            "mapped_bytes": largest.mapped,
        }
        if self.inside:
            content["seconds_without_startup"] = statistics.median(self.inside)
        return content


def measure(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """All commands on a checkpoint of one size, `--repeat` times in turn."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory) as folder:
        work = Path(folder)
        source, copy, model = work / "source", work / "copy", work / "model"
        source.mkdir()
        say(f"{size}: writing the checkpoint")
        if options.format == BUNDLE:
            bundle = write_bundle(SIZES[size], source, momentum=options.momentum)
        else:
            from benchmarks.conversion.t5x import write_t5x

            bundle = write_t5x(SIZES[size], source, scanned=options.format == SCANNED)
        plain = bundle.data
        if options.momentum or options.format != BUNDLE:
            plain = work / "plain"
            write_random(plain, bundle.weight_bytes)
        cases: dict[str, Case] = {}
        for number in range(options.repeat):
            say(f"{size}: round {number + 1} of {options.repeat}")
            one_round(cases, bundle, plain, copy, model, options)
        return {
            "size": size,
            "bytes_read": bundle.weight_bytes,
            "bytes_of_the_checkpoint": bundle.data_bytes,
            "bytes_of_cp": plain.stat().st_size,
            "cases": {name: case.to_json() for name, case in cases.items()},
        }


def one_round(
    cases: dict[str, Case], bundle: Bundle, plain: Path, copy: Path, model: Path, options: argparse.Namespace
) -> None:
    """Each command once; what it writes is removed."""

    def measured(name: str, command: Sequence[str], output: Path, keep: bool = False) -> Run:
        os.sync()
        if options.cold:
            for path in (plain, *(p for p in [bundle.data, *bundle.data.rglob("*")] if p.is_file())):
                forget(path)
        found = run(command)
        cases.setdefault(name, Case()).runs.append(found)
        if not keep:
            remove(output)
        return found

    def converted(name: str, *more: str) -> None:
        command = [sys.executable, "-c", CONVERTER, str(bundle.prefix), str(model), "--format", "json", *more]
        content = json.loads(measured(name, command, model).output)
        if content["bytes_read"] != bundle.weight_bytes:
            raise SystemExit(f"{content['bytes_read']} bytes were read, not {bundle.weight_bytes}")
        cases[name].inside.append(content["seconds"])

    copied = measured(CP, ["cp", str(plain), str(copy)], copy, keep=True)
    # As one figure: the sync alone says nothing of how much cp left to be written.
    synced = run(["sync", str(copy)])
    seconds, cpu = copied.seconds + synced.seconds, copied.cpu + synced.cpu
    whole = Run(seconds, cpu, copied.peak, copied.anonymous, copied.mapped, "")
    cases.setdefault(SYNC, Case()).runs.append(whole)
    remove(copy)
    converted(CONVERT)
    converted(UNVERIFIED, "--no-verify")
    # It holds all variables, the slots too, and a model beside them.
    if options.transformers and bundle.data_bytes + bundle.weight_bytes > SAFE * available_memory():
        say(f"not enough memory for transformers' loader of {bundle.data_bytes / 1e9:.1f} GB")
    elif options.transformers:
        config = bundle.prefix.parent / "config.json"
        config.write_text(json.dumps(transformers_config(bundle.prefix)))
        model.mkdir()
        files = [str(bundle.prefix), str(config), str(model)]
        measured(LOADER, [options.transformers, "-c", LOADER_CODE, *files], model)
        config.unlink()


def transformers_config(prefix: Path) -> dict[str, Any]:
    """The config.json that the converter would write."""
    command = [sys.executable, "-c", CONVERTER, str(prefix), str(prefix) + "-none", "--dry-run"]
    config: dict[str, Any] = json.loads(run([*command, "--format", "json"]).output)["config"]
    return config


def require_space(sizes: Sequence[str], options: argparse.Namespace) -> None:
    """Stop before anything is written if the largest size does not fit."""
    needed = 0
    for size in sizes:
        weights, everything = bundle_bytes(SIZES[size], momentum=options.momentum)
        # The checkpoint, and one copy or output at a time; for cp a file of its own where slots are large.
        beside = options.momentum or options.format != BUNDLE
        needed = max(needed, everything + (2 * weights if beside else everything))
    free = shutil.disk_usage(options.directory or tempfile.gettempdir()).free
    if free < needed * SPARE:
        raise SystemExit(
            f"{needed * SPARE / 1e9:.1f} GB of free disk space are needed, {free / 1e9:.1f} GB are there."
            " Choose smaller --sizes, or another --directory."
        )


def require_transformers(python: str) -> None:
    """Stop unless this interpreter has what transformers' loader needs."""
    found = subprocess.run([python, "-c", LOADER_IMPORTS], capture_output=True, text=True, check=False)
    if found.returncode:
        reason = found.stderr.strip().splitlines()[-1]
        raise SystemExit(ENVIRONMENT.format(python=python, reason=reason))


def forget(path: Path) -> None:
    """Drop a file that is on disk from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """A file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked as far as that goes without work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Callable[..., Any] = parser.add_argument
    add("--sizes", default="base", help=f"some of {','.join(SIZES)}, with commas between (default: base)")
    add("--repeat", type=int, default=5, help="rounds; medians are of so many runs (default: 5)")
    add("--momentum", action="store_true", help="slots as large as the weights too (_slot_m)")
    add("--format", choices=[BUNDLE, T5X, SCANNED], default=BUNDLE, help="of the checkpoint")
    add("--cold", action="store_true", help="nothing in the page cache before each run")
    add("--transformers", metavar="PYTHON", help="an interpreter with transformers 4.57 and TensorFlow")
    add("--directory", help="where the files go meanwhile (default: the system's for temporary files)")
    add("--json", type=Path, help="write all figures here")
    add("--show", type=Path, nargs="+", metavar="JSON", help="measure nothing; print these, of one machine")
    options = parser.parse_args(arguments)
    options.sizes = options.sizes.split(",")
    unknown = [size for size in options.sizes if size not in SIZES]
    if unknown or options.repeat < 1:
        parser.error(f"--sizes are some of {','.join(SIZES)}, and --repeat is 1 or more")
    if options.format != BUNDLE and (options.transformers or options.momentum):
        parser.error("--transformers and --momentum are for a bundle")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON."""
    # As on Ctrl-C, so that files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = options_of(arguments)
    if options.show:
        shown = [json.loads(path.read_text()) for path in options.show]
        show([result for content in shown for result in content["results"]], shown[-1]["machine"])
        return
    require_space(options.sizes, options)
    if options.transformers:
        require_transformers(options.transformers)
    about = machine(Path(options.directory or tempfile.gettempdir()))
    results = [measure(size, options) for size in options.sizes]
    about["disk"] = disk_line(results)
    if options.json:
        content = {"machine": about, "cold": options.cold, "momentum": options.momentum, "results": results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    show(results, about)


if __name__ == "__main__":
    main()
