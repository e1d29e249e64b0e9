"""What `make demo` runs: convert a checkpoint of the original code, compare, and let both solve the task.

python -m demo.run [--output-dir build]
"""

from __future__ import annotations

import argparse
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
REPORTS = Path("reports")
EXAMPLES = 6
SEED = 2026


def main() -> int:
    """Exit code 0 if every tensor agrees and both give the same answers."""
    parser = argparse.ArgumentParser(description="Convert the demonstration checkpoint, compare, try it out.")
    parser.add_argument("--output-dir", type=Path, default=Path("build"), help="where the port goes")
    output_dir = parser.parse_args().output_dir
    model_dir = output_dir / "demo-t5"
    print(f"The report will be {REPORTS / 'demo-t5.html'}, to be opened in a browser.")
    print("The checkpoint in demo/checkpoint was trained by Mesh TensorFlow to sort letters.\n", flush=True)
    code = run("convert-checkpoint", CHECKPOINT, model_dir, "--force")
    code = code or run("compare-outputs", CHECKPOINT, model_dir, "--report-dir", REPORTS)
    return code or compare_on_task(model_dir) or solve(model_dir)


def run(command: str, *arguments: str | Path) -> int:
    """Show a command, run it, and return its exit code."""
    words = [command, *map(str, arguments)]
    print(f"$ {shlex.join(words)}", flush=True)
    code = subprocess.run([str(Path(sys.executable).with_name(command)), *words[1:]], check=False).returncode
    print(flush=True)
    return code


def compare_on_task(model_dir: Path) -> int:
    """The comparison again, on examples of the task. Its report goes beside the port, not over the other."""
    inputs, targets = examples(EXAMPLES, np.random.default_rng(SEED), test=True)
    file = model_dir.parent / "demo-inputs.npz"
    np.savez(file, inputs=inputs, targets=targets)
    reports = model_dir.parent / "reports"
    return run("compare-outputs", CHECKPOINT, model_dir, "--inputs", file, "--report-dir", reports)


def solve(model_dir: Path) -> int:
    """Unseen examples: the original's own decoder beside the port's."""
    inputs, targets = examples(EXAMPLES, np.random.default_rng(SEED), test=True)
    original = decode_with_original(CHECKPOINT, inputs, max_new_tokens=LENGTH)
    model = load_model(model_dir)
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
