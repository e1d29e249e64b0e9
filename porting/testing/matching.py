"""An assertion that a port computes what the original does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.compare import Comparison
from porting.errors import EXIT_OK
from porting.report import write_reports
from porting.report.terminal import summary_lines
from porting.testing.session import current
from porting.trace import Trace

if TYPE_CHECKING:
    import torch

    from porting.workbench import InputsLike

# What makes another trace of the original; all else is about the comparison.
_OF_THE_TRACE = ("config", "seed", "generate", "max_new_tokens", "num_beams", "backward")


class PortMismatchError(AssertionError):
    """A port does not match; the message is the report's first screen. `comparison` holds everything."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__("\n".join(summary_lines(comparison)))
        self.comparison = comparison


def assert_port_matches(
    reference: str | Path | Trace,
    model: str | Path | torch.nn.Module,
    inputs: InputsLike = None,
    *,
    atol: float = 1e-3,
    strict: bool = False,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Comparison:
    """Compare every tensor of a port with the original's, and fail with the report's first screen.

    Example:
        def test_the_port_is_right(reference_trace):
            assert_port_matches(reference_trace("checkpoints/small"), "converted/small", strict=True)

    Args:
        reference: a trace, a trace's directory, or a checkpoint: under pytest its original runs once, and its
            trace is kept (see `reference.py`).
        model: a model directory, or a live module.
        inputs: as in `porting.compare_outputs`.
        atol: largest absolute difference that is a match.
        strict: fail, too, where rounding does not explain a difference.
        checkpoint: what the parameters should hold, where `reference` is a trace.
        options: further ones of `porting.compare_outputs`, such as `backward=True`.

    Returns:
        The comparison, for further assertions.

    Raises:
        PortMismatchError: a tensor differs, is missing on one side, or the comparison cannot be trusted.
        PortingError: something cannot be used.
    """
    __tracebackhide__ = True
    from porting.workbench import compare_outputs

    session = current()
    is_checkpoint = not isinstance(reference, Trace) and not (Path(reference) / "trace.json").is_file()
    if session is not None and is_checkpoint and not options.get("search"):
        of_the_trace = {name: options[name] for name in _OF_THE_TRACE if name in options}
        checkpoint = checkpoint if checkpoint is not None else str(reference)
        reference = session.reference_trace(str(reference), inputs, **of_the_trace)
    comparison = compare_outputs(reference, model, inputs, atol, checkpoint=checkpoint, **options)
    if session is not None and session.reports is not None:
        comparison = write_reports(comparison, session.reports, session.report_name())
    unexplained = comparison.faults if strict else ()
    if comparison.exit_code != EXIT_OK or unexplained:
        raise PortMismatchError(comparison)
    return comparison
