"""How often the workbench points at the right tensor, and says the right cause.

    python benchmarks/localisation.py --small
    python benchmarks/localisation.py --variants t5.1.1 --faults 'norm|gelu' --json build/localisation.json

Ports are broken in one way or in two, and right ports are written otherwise; see benchmarks/corpus/. The
checkpoints are made by Mesh TensorFlow, the original's tensors by running it: once, then kept in --cache. The
original of LongT5 is transformers', and Google's recorded runs where ../shared/data has them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # when run as a script

from benchmarks.corpus import FAULTS, PAIRS, SMALL, SMALL_PAIRS, any_ported, variants_at_hand
from benchmarks.corpus.fault import Fault
from benchmarks.corpus.long_right import long_right_runs
from benchmarks.corpus.long_variants import LONG_VARIANTS
from benchmarks.corpus.measure import Outcome, RightRun, judge, judge_right
from benchmarks.corpus.right import right_runs
from benchmarks.corpus.variants import Ported

DEFAULT_RIGHT = 260
SMALL_RIGHT = 8


def main() -> int:
    """Run the selection, print the figures and every miss."""
    arguments = _parser().parse_args()
    cache: dict[str, Ported] = {}

    def get(name: str) -> Ported:
        if name not in cache:
            cache[name] = any_ported(name, arguments.cache)
        return cache[name]

    variants = arguments.variants or variants_at_hand()
    singles, pairs = _selection(arguments.small, arguments.once, arguments.faults, variants)
    number = arguments.right
    if number is None:
        number = SMALL_RIGHT if arguments.small else 0 if arguments.faults else DEFAULT_RIGHT
    outcomes: list[Outcome] = []
    for variant, faults in [*singles, *pairs]:
        _progress(f"{len(outcomes) + 1}/{len(singles) + len(pairs)} {variant}: {' + '.join(faults)}")
        outcomes.append(judge(get(variant), [FAULTS[name] for name in faults]))
    rights: list[RightRun] = []
    long = [name for name in variants if name in LONG_VARIANTS]
    mesh = [name for name in variants if name not in LONG_VARIANTS]
    of_long = number if not mesh else number * len(long) // len(variants)
    runs = right_runs(number - of_long, mesh, compiled=arguments.compiled) if mesh else []
    for run in [*runs, *long_right_runs(of_long, long)]:
        _progress(f"right {len(rights) + 1}/{number} {run.variant}, {run.refactoring}, {run.inputs}")
        model = run.build(get(run.variant))
        rights.append(judge_right(get(run.variant), model, run.refactoring, run.inputs))
    _progress("")
    figures = summary(outcomes, rights)
    _print(figures, outcomes, rights)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "schema_version": 1,
            **figures,
            "singles": [o.to_json() for o in outcomes if len(o.faults) == 1],
            "pairs": [o.to_json() for o in outcomes if len(o.faults) > 1],
            "right": [run.to_json() for run in rights],
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=variants_at_hand(),
        metavar="NAME",
        help=", ".join(variants_at_hand()),
    )
    parser.add_argument("--faults", metavar="PATTERN", help="only faults whose name this is found in")
    parser.add_argument("--small", action="store_true", help="a fixed selection that takes about a minute")
    parser.add_argument("--once", action="store_true", help="each fault on one of its variants only")
    parser.add_argument(
        "--right", type=int, metavar="N", help=f"runs of right ports (default {DEFAULT_RIGHT})"
    )
    parser.add_argument("--compiled", action="store_true", help="compiled right ports too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    parser.add_argument("--cache", type=Path, default=Path("build/localisation"), metavar="DIR")
    return parser


Selection = list[tuple[str, tuple[str, ...]]]


def _selection(
    small: bool, once: bool, pattern: str | None, variants: Sequence[str]
) -> tuple[Selection, Selection]:
    """(variant, names of faults), singles and pairs, by variant."""
    found = re.compile(pattern or "")
    on = {name: fault.variants for name, fault in FAULTS.items()}
    if once:  # variants in turn, so that all are there
        here = variants_at_hand()
        there = {name: [each for each in names if each in here] for name, names in on.items()}
        on = {name: (names[i % len(names)],) for i, (name, names) in enumerate(there.items())}
    singles: Selection = [
        (variant, (name,))
        for variant in variants
        for name in FAULTS
        if variant in on[name] and found.search(name) and (not small or (variant, name) in SMALL)
    ]
    pairs: Selection = [
        (variant, (one, other))
        for variant, one, other in (SMALL_PAIRS if small else PAIRS)
        if variant in variants and (found.search(one) or found.search(other))
    ]
    return singles, pairs


def summary(outcomes: Sequence[Outcome], rights: Sequence[RightRun]) -> dict[str, Any]:
    """The figures, shares as fractions of 1; None where nothing was run."""
    singles = [o for o in outcomes if len(o.faults) == 1 and o.visible]
    pairs = [o for o in outcomes if len(o.faults) > 1]
    times = [o.seconds for o in outcomes] + [run.seconds for run in rights]
    return {
        "faults": len({o.faults for o in singles}),
        "single_runs": len(singles),
        "pair_runs": len(pairs),
        "right_runs": len(rights),
        "invisible": sum(not o.visible for o in outcomes),
        "located": _share(singles, lambda o: o.located),
        "pairs_located": _share(pairs, lambda o: o.located),
        "cause_right": _share(singles, lambda o: o.cause),
        "pairs_cause_right": _share(pairs, lambda o: o.cause),
        "wrong_causes": sum(len(o.wrong_causes) for o in outcomes),
        "false_alarms": sum(bool(run.alarms) for run in rights),
        "right_largest_times_noise_floor": max((run.times_floor for run in rights), default=None),
        "median_seconds": statistics.median(times) if times else None,
    }


def _share(outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> float | None:
    return sum(map(holds, outcomes)) / len(outcomes) if outcomes else None


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text[:100]}")


def _print(figures: dict[str, Any], outcomes: Sequence[Outcome], rights: Sequence[RightRun]) -> None:
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):32} {f'{value:.4g}' if isinstance(value, float) else value}")
    for outcome in outcomes:
        said = [
            *([] if outcome.visible else ["invisible"]),
            *([] if outcome.located else ["not located"]),
            *([] if outcome.cause else ["cause not right"]),
            *(["wrong cause"] if outcome.wrong_causes else []),
        ]
        if said:
            print(f"\n{', '.join(said)}: {' + '.join(outcome.faults)} ({outcome.variant})")
            print(f"  expected at {' and '.join(outcome.expected)} {_expected_causes(outcome)}")
            for name, kind, words in outcome.found[:8]:
                print(f"  found {name}: {kind}: {words}")
            if len(outcome.found) > 8:
                print(f"  and {len(outcome.found) - 8} more")
            if not outcome.found:
                print("  found nothing")
            if outcome.elsewhere:
                print(f"  not touched: {', '.join(outcome.elsewhere[:6])}")
    for run in rights:
        if run.alarms:
            print(f"\nfalse alarm: {run.refactoring} ({run.variant}, {run.inputs})")
            for alarm in run.alarms[:6]:
                print(f"  {alarm}")


def _expected_causes(outcome: Outcome) -> str:
    def of(fault: Fault) -> str:
        return "/".join(fault.kinds) + (f" ({fault.word})" if fault.word else "")

    return " and ".join(of(FAULTS[name]) for name in outcome.faults)


if __name__ == "__main__":
    raise SystemExit(main())
