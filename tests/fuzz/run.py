"""Drive the fuzz targets by coverage, with atheris; `make fuzz` installs it and calls this.

    python -m tests.fuzz.run --seconds 60                     every target, one after another
    python -m tests.fuzz.run --seconds 600 table "gin values"     some

Prints how many inputs each target got, and exits with 1 if one brought out what is not our own error;
the input is kept in --findings and run again with --input FILE.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

MEMORY_MB = 4096
_INSIDE = "--inside"
_MODULES = ["porting", "gin", "tests.fuzz"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", help="names of targets; all by default")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument(
        "--corpus", type=Path, default=Path(".fuzz/corpus"), help="inputs that reached new code"
    )
    parser.add_argument("--findings", type=Path, default=Path(".fuzz/findings"))
    parser.add_argument("--input", type=Path, help="run one input of one target, and no more")
    options = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.input:
        TARGETS[names[0]].run(options.input.read_bytes())
        return 0
    failed = [name for name in names if not _run(name, options)]
    if failed:
        print(f"findings in {', '.join(failed)}: see {options.findings}")
    return bool(failed)


def _run(name: str, options: argparse.Namespace) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    from tests.fuzz.targets import TARGETS

    corpus = options.corpus / name.replace(" ", "_")
    findings = options.findings / name.replace(" ", "_")
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)
    command = [
        sys.executable, "-W", "ignore", "-m", "tests.fuzz.run", _INSIDE, name,
        f"-max_total_time={options.seconds}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=20",
        "-print_final_stats=1",
        "-max_len=20000", f"-artifact_prefix={findings}/", str(corpus),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    inputs = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r" cov: (\d+) ", done.stderr)
    number = int(inputs[1]) if inputs else 0
    sound = done.returncode == 0 and number > 0
    edges = covered[-1] if covered else "no"
    print(f"{name:20} {number:>9} inputs {edges:>6} edges  {'' if sound else 'FINDING'}", flush=True)
    if not sound:
        print(done.stdout[-4000:] + done.stderr[-2000:])
    return sound


def _fuzz(name: str, arguments: list[str]) -> int:
    import atheris

    # torch is imported first: instrumented, it would take minutes.
    import torch

    assert torch.__version__ and os.environ
    with atheris.instrument_imports(include=_MODULES):
        from tests.fuzz.targets import TARGETS

        target = TARGETS[name]
        for seed in target.seeds():  # loads what is imported late, the ports above all
            target.run(seed)
    atheris.Setup([sys.argv[0], *arguments], target.run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(_fuzz(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == [_INSIDE] else main())
