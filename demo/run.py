"""What `make demo` runs: convert a checkpoint of the original code, compare, and let both solve the task.

python -m demo.run
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from demo.task import LENGTH, as_text, examples
from porting import load_model
from porting.ports.t5.decode import decode_with_original

CHECKPOINT = Path("demo/checkpoint")
MODEL_DIR = Path("build/demo-t5")
REPORTS = Path("reports")
EXAMPLES = 6


def main() -> int:
    """Exit code 0 if every tensor agrees and both give the same answers."""
    print("The checkpoint in demo/checkpoint was trained by Mesh TensorFlow to sort letters.\n")
    run("convert-checkpoint", CHECKPOINT, MODEL_DIR, "--force")
    code = run("compare-outputs", CHECKPOINT, MODEL_DIR, "--report-dir", REPORTS)
    return code or solve()


def run(command: str, *arguments: str | Path) -> int:
    """Show a command, run it, and return its exit code."""
    words = [command, *map(str, arguments)]
    print(f"$ {shlex.join(words)}", flush=True)
    code = subprocess.run([str(Path(sys.executable).with_name(command)), *words[1:]], check=False).returncode
    print(flush=True)
    return code


def solve() -> int:
    """Unseen examples: the original's own decoder beside the port's."""
    inputs, targets = examples(EXAMPLES, np.random.default_rng(2026), test=True)
    original = decode_with_original(CHECKPOINT, inputs, max_new_tokens=LENGTH)
    model = load_model(MODEL_DIR)
    port = model.generate(torch.from_numpy(inputs).long(), max_new_tokens=LENGTH)[:, 1:]

    print(f"{'letters':14}{'the original':14}{'the port':14}")
    same = True
    for row in range(EXAMPLES):
        words = [as_text(ids[row]) for ids in (inputs, original, port.tolist(), targets)]
        agree, right = words[1] == words[2], words[2] == words[3]
        same &= agree
        print(f"{words[0]:14}{words[1]:14}{words[2]:14}{'right' if right else 'wrong'}")
    print("\nBoth say the same." if same else "\nThey differ.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
