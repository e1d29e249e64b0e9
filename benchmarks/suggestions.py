"""How far the confidence of suggested rules can be believed: prints a table.

    python -m benchmarks.suggestions 1500

So many modules, each with the parameters of a BERT or a GPT-2 under other names, some of which say nothing,
are given suggestions from names and shapes alone.
"""

from __future__ import annotations

import random
import sys
from collections import Counter

from porting.suggest.sides import Side
from porting.suggest.suggest import suggest
from tests.suggest.judge import judge
from tests.suggest.layouts import with_slots
from tests.suggest.renamed import renamed_model

BANDS = (0.9, 0.75, 0.5, 0.25, 0.0)


def main(count: int) -> None:
    right: Counter[float] = Counter()
    wrong: Counter[float] = Counter()
    parameters = 0
    for seed in range(count):
        layout, module, truth = renamed_model(random.Random(seed))
        judged = judge(suggest(Side(with_slots(layout)), module), truth)
        parameters += len(truth)
        for found, pairs in ((right, judged.right), (wrong, judged.wrong)):
            found.update(next(band for band in BANDS if confidence >= band) for confidence, *_ in pairs)
    print(f"{count} modules, {parameters} parameters, {right.total() + wrong.total()} proposed")
    print("| confidence | proposed | right |")
    print("|---|---|---|")
    for i, band in enumerate(BANDS):
        words = f"from {band}" if not i else f"{band} to {BANDS[i - 1]}"
        total = right[band] + wrong[band]
        print(f"| {words} | {total} | {right[band]} ({right[band] / max(total, 1):.1%}) |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
