"""What `compare_outputs` is given as the reference -> a trace: kept, recorded, or made now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.errors import CheckpointError, InputError, PortingError
from porting.inputs import Inputs
from porting.original import Original
from porting.port import Port, ResolvedConfig
from porting.references.recorded import find_recording, read_recording, recording_beside
from porting.source import plan_original, variable_shapes
from porting.trace import Trace, read_trace

# The port of the model that is compared, and its config.
OfModel = Callable[[], tuple[Port, Any]]


def open_given(path: str | Path) -> Trace | Path:
    """What `--reference-trace` names: a trace's directory, opened, or the file of a recorded run.

    Raises:
        InputError: it is neither.
    """
    if not (Path(path) / "trace.json").is_file() and (recording := find_recording(path)) is not None:
        return recording
    return read_trace(path)


def kept(reference: str | Path | Trace) -> Trace | Path | None:
    """A trace, or the file of a recorded run; None for a checkpoint, on which the original is run."""
    if isinstance(reference, Trace):
        return reference
    if (Path(reference) / "trace.json").is_file():
        return read_trace(reference)
    recording = find_recording(reference)
    if recording is None or recording == Path(reference):
        return recording
    try:  # a directory that holds both is a checkpoint with its recording
        open_checkpoint(reference)
    except CheckpointError:
        return recording
    return None


def reference_trace(
    reference: str | Path | Trace,
    inputs: Inputs | None,
    *,
    of_model: OfModel,
    checkpoint: str | Path | None = None,
    config: str | Path | None = None,
    save_to: Path | None = None,
    asked: Mapping[str, object],
    run: Callable[[], Trace],
    on_stage: Callable[[str], None] = lambda _stage: None,
) -> Trace:
    """The trace to compare with.

    Args:
        reference: a checkpoint, a trace or its directory, a recorded run.
        inputs: what was given to run on; None: nothing was.
        of_model: the port and the config of the model; asked where nothing else says what was recorded.
        checkpoint: what a recorded run is of, if it is at hand.
        config: as in `run_reference`.
        save_to: where to write the trace of a recorded run.
        asked: by option, what else the original is asked for; values that are not true are not asked for.
        run: runs the original on the checkpoint.
        on_stage: called as things happen, for progress.

    Raises:
        PortingError: something cannot be used, or a recorded run is asked for what it does not hold.
    """
    given = kept(reference)
    if isinstance(given, Trace):
        return given
    if given is not None:
        _refuse(given, {"--inputs or --random": inputs is not None, **asked})
        on_stage("reading the recorded run")
        if checkpoint is None:
            return read_recording(given, *of_model(), save_to=save_to)
        said = _said_by_model(open_checkpoint(checkpoint), of_model)
        with Original(checkpoint, config, otherwise=said) as original:
            return original.recorded(given, save_to)
    assert not isinstance(reference, Trace)
    held = None if inputs is not None or any(asked.values()) else open_checkpoint(reference)
    if held is not None and (beside := recording_beside(held)) is not None:
        with Original(reference, config, otherwise=_said_by_model(held, of_model)) as original:
            if original.how.uses_recording:
                on_stage(f"reading the recorded run beside the checkpoint ({beside.name})")
                return original.recorded(beside, save_to)
    on_stage("running the original")
    return run()


def checkpoint_of(reference: str | Path | Trace, given: str | Path | None) -> Checkpoint | None:
    """The checkpoint that the parameters come from; None where only a trace is at hand."""
    if given is not None:
        return open_checkpoint(given)
    if isinstance(reference, Trace) or kept(reference) is not None:
        return None
    return open_checkpoint(reference)


def _said_by_model(checkpoint: Checkpoint, of_model: OfModel) -> ResolvedConfig | None:
    """The config of the model that is compared, where the variables of its original tell less than it takes.

    A recorded run of a local LongT5 would be read as that of a T5, which has the same variables. Where the
    taps are the same, what is inferred is better: a wrong number in the model's config then shows.
    """
    try:
        port, config = of_model()
        plan_original(port, config, checkpoint)
        inferred = port.infer_config(variable_shapes(checkpoint)).config
        if [tap.name for tap in port.taps(inferred)] == [tap.name for tap in port.taps(config)]:
            return None
    except PortingError:
        return None  # what does not fit is said where the checkpoint's own config is known
    return ResolvedConfig(
        config, origin="the model that is compared, for nothing beside the checkpoint says it"
    )


def _refuse(recording: Path, asked: Mapping[str, object]) -> None:
    """A recorded run has the inputs that it has, and what was not recorded is not there."""
    wanted = [option for option, value in asked.items() if value]
    if wanted:
        raise InputError(
            f"{recording} is a recorded run: it cannot be asked for {', '.join(wanted)}.",
            remedy="Leave that out, or let the original run: give the checkpoint as SOURCE, without"
            " --reference-trace.",
        )
