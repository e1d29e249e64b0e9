"""What the core asks of a port, and how it finds one.

A port is an object of this class, named in the entry point group `porting.ports`. The core never imports a
port by name. Everything here is called with names and shapes, paths and modules; a port loads its framework
only inside the functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from porting.errors import ConfigError
from porting.inputs import TEXT_TO_TEXT, InputField, Inputs
from porting.mapping import Claim, Drop, Rule, Shape
from porting.tap import Tap

if TYPE_CHECKING:
    import numpy as np
    import torch

    from porting.diagnose.engine import Candidate
    from porting.generation.decoding import Decoding
    from porting.references.recorded import RecordedNames
    from porting.tokenizer import Tokenizer
    from porting.tokenizer_files import TokenizerFiles


@dataclass(frozen=True)
class ResolvedConfig:
    """A model's configuration and what it rests on.

    Attributes:
        config: the port's own config object.
        origin: where it was read, such as "operative_config.gin beside the checkpoint".
        inferred: values read off variables and shapes, in words.
        assumed: values that nothing in the checkpoint determines, in words, each with how to override it.
        original_text: the config in the original's own language, where that is what was read.
    """

    config: Any
    origin: str
    inferred: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    original_text: str | None = None


@dataclass(frozen=True)
class OriginalFormat:
    """A checkpoint of the original, into which a model can be written back: `--to NAME`.

    Attributes:
        variables: of a config: variable name -> shape; of the weights only.
        files: of a config and the variables' names: text files that lie beside the checkpoint, by name.
        more: further variables that whoever restores the checkpoint asks for, by name.
        located: of a config and the variables that a checkpoint had: the config with what it does not say of
            where they lie.
        layout: the format of the files.
        owns: of the variables that a model was made from: whether they are such as this format has. Those of
            another of the port's formats are not written again.
        laid_out: of a config: the same model as this format has it, where no checkpoint said where it lies.
        spread: of the config and of what `laid_out` makes of it: parameters that only the second has -> the
            model's parameter that holds their values. For a format that keeps for each layer what the model
            keeps once.
        config_file: which of `files` the original's own config text is; None: the port's first.
    """

    variables: Callable[[Any], Mapping[str, Shape]]
    files: Callable[[Any, Sequence[str]], Mapping[str, str]]
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    located: Callable[[Any, Mapping[str, Shape]], Any] = field(default=lambda config, _variables: config)
    layout: str = "tensorflow-bundle"
    owns: Callable[[Mapping[str, Shape]], bool] = field(default=lambda _variables: True)
    laid_out: Callable[[Any], Any] = field(default=lambda config: config)
    spread: Callable[[Any, Any], Mapping[str, str]] = field(default=lambda _config, _located: {})
    config_file: str | None = None


@dataclass(frozen=True)
class OriginalRun:
    """How the original of one checkpoint is run.

    Attributes:
        target: "module:function" that runs it in the reference process.
        config_text: of a config and the variables' names: the original's own config text, when the checkpoint
            has none.
        uses_recording: whether a recorded run beside the checkpoint is taken instead, where one lies there.
        generates: whether `Port.decoding` can ask it.
    """

    target: str
    config_text: Callable[[Any, Sequence[str]], str] = field(default=lambda _config, _names: "")
    uses_recording: bool = False
    generates: bool = False


@dataclass(frozen=True)
class Port:
    """One architecture: how its checkpoints are read, mapped, built, tapped, and run in the original.

    Attributes:
        name: short name, used in reports and JSON.
        recognises: whether a checkpoint with these variables is of this architecture.
        read_config: from a config file of the original or of the port.
        infer_config: from variables and shapes alone.
        config_from_json, config_to_json: to and from the dictionary in `config.json`.
        rules: the rule table for a config and the names that the checkpoint uses.
        build: the PyTorch module, on the current default device (meta for shapes only).
        run: calls the module on inputs, and returns its outputs by tap name.
        taps: where the module is listened to.
        random_inputs: ids for a config, batch size, length and seed, that reach what matters in this model.
        check_ids: raises InputError unless the model of a config can read these ids, whose fields are right.
        input_fields: the arrays that the model is run on; what `run` and the original read.
        reference: "module:function" that runs the original in the reference process.
        reference_config: the original's own config text for a port's config, when the checkpoint has none.
        run_of: of a config and the names of a checkpoint's variables: how its original is run; None, or
            where it gives None: by `reference`. Checkpoints of several programs have an original each.
        recorded: of a config and the names of recorded tensors: what they are; see
            `porting.references.recorded`. None: recorded runs are not known.
        model_types: `model_type` values of config.json that this port builds.
        config_files: file names to look for beside a checkpoint, the best first.
        extra_files: further JSON files of a model directory, by name.
        candidates: loads the causes of faults that only this architecture has; see `porting.diagnose`.
        decoding: how it generates; None where there is nothing to generate, or nobody has said how.
        revealing_inputs: inputs chosen to hurt, with labels, without end; None: what hurts any
            text-to-text model, up to the config's `vocab_size`.
        fit_inputs: cuts and completes ids so that the model of a config can read them; ids that it can read
            stay as they are.
        loss: which of the outputs of `run` the gradients are taken of.
        tokenizer: how text becomes ids; None where that is nobody's business, or nobody has said how.
        relative_buckets: of a config, a tap's name, and how many positions look and are looked at: the
            relative-position bucket of each pair, int [queries, memory]; None for taps that have none.
            Reports show differences of attention by them.
        parameter_shapes: of a config: names and shapes of the module's parameters in the order of
            `named_parameters()`, without PyTorch, whose import takes seconds; None: the module is built.
        state_dict_rules: of a config, the contents of the config.json that it was read from, and the names of
            the tensors beside it: rules for what is not called as the module's parameters are. Other
            programs that write such directories keep tables twice, or tensors that are no weights.
        originals: checkpoints of the original that a model can be written back into, by name.
        tokenizer_files: of the directory of a checkpoint and a config: the tokenizer that lies there as
            transformers loads it, None where none does. None: known files are copied as they are.
    """

    name: str
    recognises: Callable[[Mapping[str, Shape]], bool]
    read_config: Callable[[Path, Mapping[str, Shape]], ResolvedConfig]
    infer_config: Callable[[Mapping[str, Shape]], ResolvedConfig]
    config_from_json: Callable[[Mapping[str, Any]], Any]
    config_to_json: Callable[[Any], dict[str, Any]]
    rules: Callable[[Any, Sequence[str]], Sequence[Rule | Drop]]
    build: Callable[[Any], torch.nn.Module]
    run: Callable[[torch.nn.Module, Inputs], Mapping[str, torch.Tensor]]
    taps: Callable[[Any], Sequence[Tap]]
    random_inputs: Callable[[Any, int, int, int], Inputs]
    check_ids: Callable[[Any, Inputs], None]
    reference: str
    reference_config: Callable[[Any, Sequence[str]], str]
    config_files: tuple[str, ...] = ("config.json",)
    model_types: tuple[str, ...] = ()
    extra_files: Callable[[Any], Mapping[str, Any]] = field(default=lambda _config: {})
    candidates: Callable[[], Sequence[Candidate]] = field(default=lambda: ())
    input_fields: tuple[InputField, ...] = TEXT_TO_TEXT
    decoding: Decoding | None = None
    revealing_inputs: Callable[[Any], Iterator[tuple[str, Inputs]]] | None = None
    fit_inputs: Callable[[Any, Inputs], Inputs] = field(default=lambda _config, inputs: inputs)
    loss: str = "loss"
    tokenizer: Tokenizer | None = None
    relative_buckets: Callable[[Any, str, int, int], np.ndarray | None] = field(
        default=lambda _config, _name, _queries, _memory: None
    )
    parameter_shapes: Callable[[Any], Mapping[str, Shape]] | None = None
    state_dict_rules: Callable[[Any, Mapping[str, Any], Sequence[str]], Sequence[Claim]] = field(
        default=lambda _config, _content, _names: ()
    )
    originals: Mapping[str, OriginalFormat] = field(default_factory=dict)
    tokenizer_files: Callable[[Path, Any], TokenizerFiles | None] | None = None
    run_of: Callable[[Any, Sequence[str]], OriginalRun | None] | None = None
    recorded: Callable[[Any, Sequence[str]], RecordedNames] | None = None

    def original_run(self, config: Any, names: Sequence[str]) -> OriginalRun:
        """How the original of a checkpoint with these variables is run."""
        special = None if self.run_of is None else self.run_of(config, names)
        return special or OriginalRun(self.reference, self.reference_config, generates=True)

    def check_inputs(self, config: Any, inputs: Inputs) -> None:
        """Raise InputError unless the model of this config can be run on these inputs."""
        inputs.check_fields(self.input_fields)
        self.check_ids(config, inputs)


@lru_cache(maxsize=1)
def _load_ports() -> tuple[dict[str, Port], dict[str, str]]:
    """Ports by name, and why others cannot be used: one that is half finished must not break the rest."""
    ports, reasons = {}, {}
    for point in entry_points(group="porting.ports"):
        try:
            port = point.load()
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {error}"
            reasons[point.name] = f"{point.value} cannot be loaded: {said}{_raised_at(error)}"
            continue
        if isinstance(port, Port):
            ports[point.name] = port
        else:
            reasons[point.name] = f"{point.value} is not a Port, but a {type(port).__name__}"
    return ports, reasons


def _raised_at(error: BaseException) -> str:
    """` (path:line)` of the last line of a file that an error came through."""
    frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def installed_ports() -> dict[str, Port]:
    """Every port that an installed package names in the entry point group `porting.ports`, and that loads."""
    return dict(_load_ports()[0])


# Ports that failed when they were asked whether they know a checkpoint.
_failed_to_recognise: dict[str, str] = {}


def unusable_ports() -> dict[str, str]:
    """Ports that were left out so far, and why: they cannot be loaded, or could not be asked."""
    return {**_failed_to_recognise, **_load_ports()[1]}


def port_named(name: str) -> Port:
    """The port of that name. Raises ConfigError that lists those there are."""
    ports, reasons = _load_ports()
    if name in ports:
        return ports[name]
    if name in reasons:
        raise ConfigError(f"The port {name!r} cannot be used: {reasons[name]}")
    raise ConfigError(f"There is no port named {name!r}; installed: {_names()}.")


def port_for_variables(shapes: Mapping[str, Shape]) -> Port:
    """The port whose architecture these variables are. Raises ConfigError if none knows them."""
    for name, port in installed_ports().items():
        try:
            if port.recognises(shapes):
                return port
        except Exception as error:
            _failed_to_recognise[name] = f"recognises failed: {type(error).__name__}: {error}"
    shown = ", ".join(list(shapes)[:5])
    raise ConfigError(
        f"No installed port recognises this checkpoint ({len(shapes)} variables: {shown}, ...).",
        remedy=f"Installed ports: {_names()}.",
    )


def port_for_model_type(model_type: str) -> Port:
    """The port that builds a `config.json` of this `model_type`. Raises ConfigError if none does."""
    for port in installed_ports().values():
        if model_type in port.model_types:
            return port
    known = sorted(kind for port in installed_ports().values() for kind in port.model_types)
    raise ConfigError(
        f"No installed port builds model_type {model_type!r}.",
        remedy=f"Known: {', '.join(known) or 'none'}.{_left_out()}",
    )


def _names() -> str:
    return (", ".join(sorted(installed_ports())) or "none") + _left_out()


def _left_out() -> str:
    names = sorted(unusable_ports())
    return f"; left out, because they cannot be used: {', '.join(names)}" if names else ""
