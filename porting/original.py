"""An original implementation with one checkpoint, which answers one set of inputs after another."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.convert.checksums import file_sha256
from porting.errors import InputError
from porting.generation.decoding import GenerationSettings, decode_with_reference
from porting.generation.flips import decoding_of
from porting.gradients.traces import map_variables
from porting.inputs import Inputs
from porting.mapping import Plan
from porting.port import ResolvedConfig
from porting.references.process import ReferenceProcess
from porting.references.recorded import read_recording, recording_beside
from porting.source import plan_original, resolve_config
from porting.trace import GRADIENTS, Trace, TraceWriter, read_trace


class Original:
    """The original of a checkpoint, in a process of its own that stays up while the block runs.

    Example:
        with Original("model.ckpt-1000") as original:
            traces = [original.run(inputs) for inputs in batches]

    Attributes:
        port: the port that knows the architecture.
        config: the port's own config object.
        how: the original of such a checkpoint is run.
    """

    def __init__(
        self,
        source: str | Path,
        config: str | Path | None = None,
        process: ReferenceProcess | None = None,
        python: str | None = None,
        otherwise: ResolvedConfig | None = None,
    ) -> None:
        """Open the checkpoint; the process starts with the first run.

        Args:
            source, config: as in `run_reference`.
            process: one of the port's `reference`, for originals of several checkpoints in turn. It stays up
                when this block ends.
            python: the interpreter that runs the original; as in `ReferenceProcess`.
            otherwise: the config where neither is given nor lies beside the checkpoint; by default inferred.

        Raises:
            CheckpointError, ConfigError, MappingError: the checkpoint cannot be used; see
                `convert_checkpoint`.
        """
        checkpoint = open_checkpoint(source)
        self.port, resolved = resolve_config(checkpoint, config, otherwise)
        self.config: Any = resolved.config
        # Says clearly what the original would stumble over.
        self._plan = plan_original(self.port, self.config, checkpoint)
        names = list(checkpoint.tensors)
        self.how = self.port.original_run(self.config, names)
        self._checkpoint, self._python = checkpoint, python
        content = self.port.config_to_json(self.config)
        self._request: Mapping[str, Any] = {
            "checkpoint": str(checkpoint.path.resolve()),
            "original_config": resolved.original_text or self.how.config_text(self.config, names),
            "config": content,
            "metadata": {
                "port": self.port.name,
                "config": content,
                "config_origin": resolved.origin,
                "checkpoint": _checkpoint_facts(checkpoint, self._plan),
            },
        }
        self._process = process or ReferenceProcess(self.how.target, python=python)
        self._lent = process is not None

    def run(
        self,
        inputs: Inputs,
        save_to: str | Path | None = None,
        *,
        generation: GenerationSettings | None = None,
        backward: bool = False,
    ) -> Trace:
        """The trace of one run.

        Args:
            inputs: what the model of this config can read.
            save_to: where to write the trace; by default a temporary directory that lives as long as it.
            generation: decode so, too; what the original says is kept in the trace's metadata.
            backward: take the gradients of the loss, too; `gradients_of(trace)` opens them.

        Raises:
            InputError: the model cannot read these inputs.
            ReferenceRunError: the original cannot be run here, or failed.
        """
        self.port.check_inputs(self.config, inputs)
        metadata = dict(self._request["metadata"])
        if generation:
            if not self.how.generates:
                raise InputError(
                    "What the original of such a checkpoint generates cannot be compared: nobody has said how"
                    " it is asked.",
                    remedy="Leave out --generate.",
                )
            decoding = decoding_of(self.port)
            decoding.check(self.config, inputs, generation)
            metadata["generation"] = decode_with_reference(
                decoding, generation, inputs, self._request, self._python
            )
        with tempfile.TemporaryDirectory(prefix="porting-inputs-") as folder:
            TraceWriter(Path(folder), inputs).close({})
            kept = tempfile.TemporaryDirectory(prefix="porting-trace-") if save_to is None else None
            target = Path(kept.name) if kept else Path(str(save_to))
            TraceWriter(target, inputs)  # fails here, clearly, rather than in the other process
            request = {**self._request, "inputs": folder, "trace": str(target.resolve())}
            raw = Path(folder) / GRADIENTS
            wanted = {"gradients": str(raw)} if backward else {}
            self._process.call({**request, **wanted, "metadata": metadata})
            if backward:
                map_variables(read_trace(raw), self._plan, target / GRADIENTS)
        trace = read_trace(target)
        return Trace(trace.path, trace.tensors, trace.inputs, trace.metadata, kept)

    def recording(self) -> Path | None:
        """The recorded run that lies beside the checkpoint and stands for the original; None: none does."""
        return recording_beside(self._checkpoint) if self.how.uses_recording else None

    def recorded(self, file: Path, save_to: str | Path | None = None) -> Trace:
        """A recorded run of this checkpoint as a trace; see `read_recording`."""
        return read_recording(
            file,
            self.port,
            self.config,
            checkpoint=self._checkpoint,
            metadata=self._request["metadata"],
            save_to=None if save_to is None else Path(save_to),
        )

    def __enter__(self) -> Original:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._lent:
            self._process.close()


def _checkpoint_facts(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    digests = {checkpoint.file_name(path): file_sha256(path) for path in checkpoint.identifying_files()}
    weights = (checkpoint.tensors[source] for entry in plan.entries for source in entry.sources)
    return {
        "name": checkpoint.path.name,
        "format": checkpoint.format,
        "dtypes": sorted({weight.dtype.name for weight in weights}),
        "sha256": digests,
    }
