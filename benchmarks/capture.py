"""What listening costs: a forward pass with hooks against one without, memory by depth, a whole comparison.

    python -m benchmarks.capture                 # T5 1.1 small, random weights
    python -m benchmarks.capture --model t5.1.1.base --batch 2 --length 256 --runs 9
    python -m benchmarks.capture --checkpoint demo/checkpoint   # and the whole of compare-outputs

Prints ratios of medians; runs of what is compared alternate, so that a machine that slows down slows both.
"Module level" is every tap but the attention's inner ones (scores, weights, what is attended): to hear those
the port leaves PyTorch's fused attention kernel for the explicit steps of the original.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from porting.capture import run_tapped, to_numpy
from porting.inputs import Inputs
from porting.ports.t5 import port as t5
from porting.ports.t5.presets import preset
from porting.tap import Tap
from porting.trace import TraceWriter

INNER = (".scores", ".weights", ".attended", ".position_bias")
PORT = t5.PORT


def build(name: str, layers: int | None = None) -> tuple[torch.nn.Module, Sequence[Tap]]:
    """A random model of a published size, with another depth if asked for, and its taps."""
    content = PORT.config_to_json(preset(name))
    if layers is not None:
        content |= {"num_layers": layers, "num_decoder_layers": layers}
    config = PORT.config_from_json(content)
    torch.manual_seed(0)
    return PORT.build(config).eval(), PORT.taps(config)


def module_level(taps: Sequence[Tap]) -> list[Tap]:
    """Those that leave the fused kernel in place."""
    return [tap for tap in taps if not tap.name.endswith(INNER)]


def forward(model: torch.nn.Module, inputs: Inputs) -> None:
    """Bare."""
    with torch.no_grad():
        PORT.run(model, inputs)


def heard(model: torch.nn.Module, inputs: Inputs, taps: Sequence[Tap]) -> None:
    """Under hooks that write nothing."""
    run_tapped(model, inputs, taps, PORT.run, lambda _tap, _value: None)


def traced(model: torch.nn.Module, inputs: Inputs, taps: Sequence[Tap], folder: Path) -> None:
    """Under hooks that write to disk."""
    writer = TraceWriter(folder, inputs)

    def write(tap: Tap, value: torch.Tensor) -> None:
        array = to_numpy(value, copy=False)
        writer.add(tap.name, array.reshape(tap.unfolded_shape(array.shape)), tap.dimension_names)

    run_tapped(model, inputs, taps, PORT.run, write)
    writer.close({})


def medians(
    cases: dict[str, Callable[[], object]], runs: int, after: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Seconds, median of alternating runs, after one that does not count; `after` each run, untimed."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for run in range(runs + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            elapsed = time.perf_counter() - start
            if run:
                times[name].append(elapsed)
            after()
    return {name: statistics.median(values) for name, values in times.items()}


def print_capture(model_name: str, inputs: Inputs, runs: int) -> None:
    """Hooks against none, and a trace on disk against `cp` of its files."""
    model, taps = build(model_name)
    outer = module_level(taps)
    with tempfile.TemporaryDirectory() as folder:
        kept, scratch = Path(folder, "kept"), Path(folder, "scratch")
        traced(model, inputs, outer, kept)
        size = sum(file.stat().st_size for file in kept.rglob("*.npy"))
        seconds = medians(
            {
                "forward, no hooks": lambda: forward(model, inputs),
                f"hooks at module level ({len(outer)} taps)": lambda: heard(model, inputs, outer),
                f"hooks at all {len(taps)} taps": lambda: heard(model, inputs, taps),
                "module level, written to disk": lambda: traced(model, inputs, outer, scratch),
                f"cp of what that wrote ({size / 1e6:.0f} MB)": lambda: subprocess.run(
                    ["cp", "-r", str(kept), str(scratch)], check=True
                ),
            },
            runs,
            after=lambda: shutil.rmtree(scratch, ignore_errors=True),
        )
    bare = seconds["forward, no hooks"]
    for name, value in seconds.items():
        print(f"  {value / bare:5.2f}x  {name}")


def print_memory(model_name: str, inputs: Inputs) -> None:
    """Peak memory of a forward pass that is traced over that of a bare one, by depth, each in a process."""
    for layers in (2, 4, 8, 16):
        peaks = [_peak(model_name, layers, inputs, mode) for mode in ("bare", "traced")]
        print(f"  {layers:3d} layers: {peaks[1] - peaks[0]:+.0f} MB ({peaks[0]:.0f} MB bare)")


def _peak(model_name: str, layers: int, inputs: Inputs, mode: str) -> float:
    batch, length = inputs["inputs"].shape
    command = [sys.executable, "-m", "benchmarks.capture", "--model", model_name, "--peak", mode, str(layers)]
    command += ["--batch", str(batch), "--length", str(length)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_comparison(checkpoint: Path, runs: int) -> None:
    """compare-outputs against its two runs alone: the original in its process, the port loaded and run."""
    with tempfile.TemporaryDirectory() as folder:
        work, source = Path(folder), str(checkpoint)
        convert = shutil.which("convert-checkpoint") or "convert-checkpoint"
        compare = shutil.which("compare-outputs") or "compare-outputs"
        subprocess.run([convert, source, str(work / "model"), "--format", "quiet"], check=True)
        original = f"from porting import run_reference; run_reference({source!r})"
        port = (
            "from porting import load_model; from porting.inputs import random_inputs;"
            "from porting.ports.t5.port import PORT; import torch;"
            f"m = load_model({str(work / 'model')!r}, dtype=torch.float32);"
            "PORT.run(m, PORT.random_inputs(m.config, 3, 160, 0))"
        )

        def call(*command: str) -> Callable[[], None]:
            return lambda: subprocess.run(command, check=True, capture_output=True) and None

        reports = ("--report-dir", str(work / "reports"))
        model = str(work / "model")
        seconds = medians(
            {
                "original": call(sys.executable, "-c", original),
                "port": call(sys.executable, "-c", port),
                "compare-outputs --no-analyse": call(compare, source, model, *reports, "--no-analyse"),
                "compare-outputs": call(compare, source, model, *reports),
            },
            runs,
        )
    bare = seconds["original"] + seconds["port"]
    print(f"  1.00x  the two runs alone ({bare:.1f} s)")
    for name in ("compare-outputs --no-analyse", "compare-outputs"):
        print(f"  {seconds[name] / bare:.2f}x  {name} ({seconds[name]:.1f} s)")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="t5.1.1.small")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--checkpoint", type=Path, help="measure a whole comparison of this checkpoint too")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    config = preset(arguments.model)
    inputs = PORT.random_inputs(config, arguments.batch, arguments.length, 0)
    if arguments.peak:
        mode, layers = arguments.peak
        model, taps = build(arguments.model, int(layers))
        if mode == "traced":
            with tempfile.TemporaryDirectory() as folder:
                traced(model, inputs, taps, Path(folder))
        else:
            forward(model, inputs)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
        return
    print(f"{arguments.model}, {arguments.batch}x{arguments.length}, {torch.get_num_threads()} threads")
    print_capture(arguments.model, inputs, arguments.runs)
    print("memory that tracing adds, by depth of each stack:")
    print_memory(arguments.model, inputs)
    if arguments.checkpoint:
        print("a whole comparison:")
        print_comparison(arguments.checkpoint, min(arguments.runs, 3))


if __name__ == "__main__":
    main()
