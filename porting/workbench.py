"""The two calls behind `compare-outputs`: run the original, and compare a port with it."""

from __future__ import annotations

import hashlib
import math
import platform
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from porting import __version__
from porting.analysis.noise import UNITS
from porting.compare import INVALID, Comparison, TensorComparison, compare_traces
from porting.convert.checksums import file_sha256
from porting.errors import InputError
from porting.generation.decoding import GenerationSettings, kept_decoding
from porting.generation.flips import check_generates, compare_kept_generation
from porting.given_reference import checkpoint_of, reference_trace
from porting.gradients.comparison import TOLERANCE, compare_gradients
from porting.gradients.traces import gradients_of
from porting.inputs import DEFAULT_RANDOM, Inputs, read_inputs
from porting.model_dir import load_model, read_config, stored_dtypes, weight_files
from porting.original import Original
from porting.pictures import pictures_of
from porting.port import Port, port_for_model_type, port_named
from porting.report import write_reports
from porting.search.beside import require_checkpoint, search_port
from porting.search.reproduce import write_test
from porting.search.search import DEFAULT_BUDGET, differs
from porting.trace import GRADIENTS, Trace

if TYPE_CHECKING:
    import torch

InputsLike = Inputs | Mapping[str, Any] | str | Path | None


def run_reference(
    source: str | Path,
    inputs: InputsLike = None,
    *,
    config: str | Path | None = None,
    seed: int = 0,
    save_to: str | Path | None = None,
    generate: str | None = None,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    backward: bool = False,
    reference_python: str | None = None,
    live: bool = False,
) -> Trace:
    """Run the original implementation on a checkpoint, in a process of its own.

    Where the original can be run nowhere any more, as T5X, a recorded run beside the checkpoint
    (`recorded.npz`) stands for it, unless other inputs, gradients or generation are asked for.

    Example:
        trace = run_reference("model.ckpt-1000", {"inputs": [[5, 6, 1]], "targets": [[7, 1, 0]]})
        trace["logits"]     # float32 [batch, length, vocab]

    Args:
        source: a checkpoint prefix, or the directory that holds it.
        inputs: an `Inputs`, a mapping with `inputs` and `targets` (ints, [batch, length] each), or an .npz
            or .json file of them; by default random ids, with padding and beyond the last bucket.
        config: as in `convert_checkpoint`.
        seed: of the random ids.
        save_to: where to write the trace; by default a temporary directory that lives as long as the trace.
        generate: "greedy" or "beam": let the original decode too; the trace keeps what it says.
        max_new_tokens, num_beams: 32 tokens and 4 beams by default.
        backward: also take the gradients of the loss; `gradients_of(trace)` opens them.
        reference_python: the interpreter of an environment in which the original is installed; by default
            what PORTING_REFERENCE_PYTHON names, else the one that runs this.
        live: do not take a recorded run.

    Raises:
        CheckpointError, ConfigError, MappingError: the checkpoint cannot be used; see `convert_checkpoint`.
        InputError: the inputs cannot be used.
        ReferenceRunError: the original cannot be run here, or failed.
    """
    settings = GenerationSettings.asked(generate, max_new_tokens, num_beams)
    with Original(source, config, python=reference_python) as original:
        ids = as_inputs(inputs)
        recording = original.recording()
        if recording is not None and ids is None and not (settings or backward or seed or live):
            return original.recorded(recording, save_to)
        if ids is None:
            ids = original.port.random_inputs(original.config, *DEFAULT_RANDOM, seed)
        return original.run(ids, save_to, generation=settings, backward=backward)


def compare_outputs(
    reference: str | Path | Trace,
    model: str | Path | torch.nn.Module,
    inputs: InputsLike = None,
    atol: float = 1e-3,
    *,
    config: str | Path | None = None,
    seed: int = 0,
    report_dir: str | Path | None = None,
    save_traces: str | Path | None = None,
    checkpoint: str | Path | None = None,
    analyse: bool = True,
    noise_times: float | None = None,
    generate: str | None = None,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    backward: bool = False,
    reference_python: str | None = None,
    gradient_tolerance: float = TOLERANCE,
    command: str = "",
    search: int = 0,
    search_budget: float = DEFAULT_BUDGET,
    failing: Callable[[Comparison], bool] = differs,
    on_stage: Callable[[str], None] = lambda _stage: None,
    on_row: Callable[[TensorComparison], None] = lambda _row: None,
    on_tensor: Callable[[str, int], None] = lambda _name, _total: None,
) -> Comparison:
    """Run the original and the port on the same input IDs and compare every tensor in between.

    Example:
        comparison = compare_outputs("model.ckpt-1000", "model_dir")
        comparison.status              # "match"
        comparison.first_divergence    # None, or which tensor, where, and by how much

    Args:
        reference: a checkpoint (the original is run on it), or a trace, or a trace's directory, or a
            recorded run (`recorded.npz`, or its directory). A recorded run beside a T5X checkpoint is taken
            where nothing is asked for that it does not hold; see docs/references.md.
        model: a model directory (run in float32), or a live module, which is run as it is.
        inputs: as in `run_reference`; with a trace, by default the trace's own.
        atol: largest absolute difference that counts as a match.
        config, seed: as in `run_reference`.
        report_dir: where to write the reports; None writes none.
        save_traces: keep both traces, in `reference` and `port` under this directory.
        checkpoint: what the parameters should hold, where `reference` is a trace; by default `reference`.
        analyse: find where differences are made, and why; see docs/diagnosis.md.
        noise_times: how many times its noise floor a tensor's own difference may be; by default 32, and 4 for
            bfloat16 and float16.
        generate: "greedy" or "beam": compare what both generate too; a trace must have been made with it.
        max_new_tokens, num_beams: as in `run_reference`; with a trace, by default the trace's own.
        backward: also compare the gradients of the loss, for every tap and every parameter; a given trace
            must have been made with them.
        reference_python: as in `run_reference`.
        gradient_tolerance: largest difference of a gradient that counts as a match, relative to the largest
            magnitude in the original's gradient of the same tensor.
        command: the command line, for the report.
        search: try so many further inputs, chosen to hurt, and shrink one that fails; see `porting.search`.
        search_budget: seconds for the search.
        failing: what counts as failing in the search.
        on_stage, on_row: called as things happen, for progress.
        on_tensor: called with each tensor that a stage reaches, and how many it has, for progress.

    Raises:
        PortingError: something cannot be used; see `run_reference` and `load_model`.
    """
    if not 0 <= atol < math.inf:
        raise InputError(f"The tolerance must be a number of at least 0, not {atol}.")
    if not 0 <= gradient_tolerance < math.inf:
        raise InputError(
            f"The gradients' tolerance must be a number of at least 0, not {gradient_tolerance}."
        )
    GenerationSettings.asked(generate, max_new_tokens, num_beams)
    if search:
        require_checkpoint(reference)
    # The model first: loading it takes a second, running the original takes long.
    module, model_facts = _load(model)
    if generate:
        check_generates(module)
    asked = {"generate": generate, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
    save_to = Path(save_traces) / "reference" if save_traces is not None else None
    trace = reference_trace(
        reference,
        as_inputs(inputs),
        of_model=lambda: _of_model(model, module),
        checkpoint=checkpoint,
        config=config,
        save_to=save_to,
        asked={"--seed": seed, "--generate": generate, "--backward": backward, "--search": search},
        run=lambda: run_reference(
            cast("str | Path", reference),
            inputs,
            config=config,
            seed=seed,
            save_to=save_to,
            backward=backward,
            reference_python=reference_python,
            live=True,
            **asked,  # type: ignore[arg-type]
        ),
        on_stage=on_stage,
    )
    if generate:  # says now that the trace does not hold it, and not after the port has run
        kept_decoding(trace.metadata, generate, max_new_tokens, num_beams)
    gradients = gradients_of(trace) if backward else None
    given = as_inputs(inputs)
    if given is not None and not _same_inputs(given, trace.inputs):
        raise InputError("The inputs given are not those that the reference trace was made with.")
    port = _port_of(trace, model)
    port_config = _config_of(port, module, trace)
    port.check_inputs(port_config, trace.inputs)

    from porting.capture import capture

    on_stage("running the port")
    taps = port.taps(port_config)
    port_trace = capture(
        module,
        trace.inputs,
        taps,
        port.run,
        path=Path(save_traces) / "port" if save_traces is not None else None,
        metadata={"port": port.name, "model": model_facts},
        on_tensor=lambda name: on_tensor(name, len(taps)),
    )
    on_stage("comparing")

    def compared(row: TensorComparison) -> None:
        on_tensor(row.name, len(trace.tensors))
        on_row(row)

    comparison = compare_traces(
        trace,
        port_trace,
        atol,
        provenance={
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            "porting": __version__,
            "platform": f"{platform.system()} {platform.machine()}, Python {sys.version.split()[0]}",
            "reference": {key: value for key, value in trace.metadata.items() if key != "generation"},
            "port": dict(port_trace.metadata),
            "inputs": _input_facts(trace.inputs),
        },
        on_row=compared,
    )
    if gradients is not None:
        on_stage("running the port backward")
        from porting.gradients.capture import capture_gradients

        port_gradients = capture_gradients(
            module,
            trace.inputs,
            port.taps(port_config),
            port.run,
            path=port_trace.path / GRADIENTS,
            loss=port.loss,
        )
        comparison = comparison.with_backward(
            compare_gradients(gradients, port_gradients, gradient_tolerance)
        )
    held = checkpoint_of(reference, checkpoint) if analyse else None

    def examine(found: Comparison, original: Trace, own: Trace, *, causes: bool = False) -> Comparison:
        if not analyse or found.status == INVALID:
            return found  # compare_traces has said why
        from porting.analysis.explain import explain

        explanation = explain(
            module,
            port,
            port_config,
            original,
            own,
            checkpoint=held,
            unit=_stored_unit(model_facts, original),
            times=noise_times,
            causes=causes,
            on_stage=on_stage if causes else lambda _stage: None,
            on_tensor=on_tensor if causes else lambda _name, _total: None,
        )
        return found.with_findings(explanation.findings, explanation.reasons)

    comparison = examine(comparison, trace, port_trace, causes=True)
    if generate:
        on_stage("comparing what both generate")
        how = (generate, max_new_tokens, num_beams)
        comparison = comparison.with_generation(
            compare_kept_generation(port, module, port_config, trace.inputs, trace.metadata, how)
        )
    comparison = comparison.with_pictures(
        pictures_of(comparison, trace, port_trace, partial(port.relative_buckets, port_config))
    )
    name = Path(model).resolve().name if isinstance(model, str | Path) else type(model).__name__
    if search:
        with Original(cast("str | Path", reference), config, python=reference_python) as original:
            found = search_port(
                original,
                port_config,
                module,
                comparison,
                trace.inputs,
                count=search,
                budget=search_budget,
                failing=failing,
                examine=examine,
                on_stage=on_stage,
            )
        if found.shrunk and report_dir is not None and isinstance(model, str | Path):
            file = write_test(
                found.shrunk.failure,
                Path(report_dir),
                name,
                source=str(reference),
                model_dir=str(model),
                config=None if config is None else str(config),
                atol=atol,
            )
            found = found.with_test_file(str(file))
        comparison = comparison.with_search(found)
    if report_dir is None:
        return comparison
    return write_reports(comparison, Path(report_dir), name)


def as_inputs(inputs: InputsLike) -> Inputs | None:
    """Whatever was given as inputs, as Inputs; None if nothing was."""
    if inputs is None or isinstance(inputs, Inputs):
        return inputs
    if isinstance(inputs, str | Path):
        return read_inputs(inputs)
    return Inputs.from_arrays(inputs)


def _load(model: Any) -> tuple[Any, dict[str, Any]]:
    import torch

    if isinstance(model, torch.nn.Module):
        return model, {"class": type(model).__name__}
    path = Path(model)
    module = load_model(path, dtype=torch.float32)
    files = {file.name: file_sha256(file) for file in (path / "config.json", *weight_files(path))}
    return module, {"directory": path.name, "dtypes": stored_dtypes(path), "sha256": files}


def _of_model(model: Any, module: Any) -> tuple[Port, Any]:
    """The port and the config of what is compared, where nothing else says it."""
    if isinstance(model, str | Path):
        return read_config(Path(model))
    content: Mapping[str, Any] = getattr(getattr(module, "config", None), "to_json", dict)()
    if not content:
        raise InputError(
            "The model does not say what it is, and a recorded run does not either.",
            remedy="Say which checkpoint was recorded (checkpoint=...), or give a model directory.",
        )
    port = port_for_model_type(str(content.get("model_type")))
    return port, port.config_from_json(content)


def _port_of(trace: Trace, model: Any) -> Port:
    if "port" in trace.metadata:
        return port_named(str(trace.metadata["port"]))
    if isinstance(model, str | Path):
        return read_config(Path(model))[0]
    raise InputError("The reference trace does not say which port it belongs to (metadata: port).")


def _config_of(port: Port, module: Any, trace: Trace) -> Any:
    """The module's own configuration where it has one, else the reference's."""
    own = getattr(module, "config", None)
    to_json = getattr(own, "to_json", None) or getattr(own, "to_dict", None)
    content = to_json() if callable(to_json) else trace.metadata.get("config")
    if not isinstance(content, Mapping):
        raise InputError("Neither the model nor the reference trace has a configuration.")
    config = port.config_from_json(content)
    return own if type(own) is type(config) else config


def _same_inputs(one: Inputs, other: Inputs) -> bool:
    ours, theirs = one.arrays(), other.arrays()
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def _stored_unit(model: Mapping[str, Any], trace: Trace) -> float | None:
    """The rounding unit of a directory's weights, if they are narrower than the checkpoint's; else None."""
    stored, original = (
        max((UNITS[name] for name in names if name in UNITS), default=0.0)
        for names in (model.get("dtypes", ()), trace.metadata.get("checkpoint", {}).get("dtypes", ()))
    )
    return stored if original and stored > original else None


def _input_facts(inputs: Inputs) -> dict[str, Any]:
    arrays = inputs.arrays()
    return {
        "origin": inputs.origin,
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "sha256": {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()},
        "ids": {name: array.tolist() for name, array in arrays.items()},
    }
