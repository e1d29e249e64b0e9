"""The port as the core sees it: `porting.port.Port` says what each field must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from porting.port import Port
from porting.scaffold import UnfinishedError

from .config import (
    CONFIG_FILES,
    MODEL_TYPE,
    Config,
    config_from_json,
    config_to_json,
    infer_config,
    read_config,
)
from .rules import recognises, rules
from .taps import taps

if TYPE_CHECKING:
    import torch

    from porting.inputs import Inputs


def build(config: Config) -> torch.nn.Module:
    """The PyTorch model, on the current default device."""
    from .model import Model

    return Model(config)


def run(model: torch.nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
    """Call the model, and return its outputs by the names of their taps."""
    raise UnfinishedError(
        'Turn the arrays (inputs["inputs"], ...) into int64 tensors on the model\'s device, call the model,'
        ' and return its outputs by tap name: {"logits": output.logits, "loss": output.loss}, without what'
        " is None as long as it is not computed."
    )


def random_inputs(config: Config, batch: int, length: int, seed: int) -> Inputs:
    """Random ids that reach what matters in this model: padding, the last position, the last id."""
    raise UnfinishedError(
        "Return Inputs.from_arrays({...}, origin=...) of int arrays [batch, length], random by the seed:"
        " the first row full, the others with padding at their end. Never longer than the model's"
        " positions."
    )


def check_ids(config: Config, inputs: Inputs) -> None:
    """Raise InputError unless the model can read these ids. Names and shapes have been checked already."""
    raise UnfinishedError(
        "inputs.check_range({'inputs': config.vocab_size}), and raise InputError for more than the positions."
    )


def reference_config(config: Config, names: Sequence[str]) -> str:
    """The original's own config text, where reference.py needs one. Here it reads config.json's contents."""
    del config, names
    return ""


PORT = Port(
    name="PORT_NAME",
    model_types=(MODEL_TYPE,),
    recognises=recognises,
    read_config=read_config,
    infer_config=infer_config,
    config_files=CONFIG_FILES,
    config_from_json=config_from_json,
    config_to_json=config_to_json,
    rules=rules,
    build=build,
    run=run,
    taps=taps,
    random_inputs=random_inputs,
    check_ids=check_ids,
    # If the model is run on other arrays than `inputs` and `targets`:
    # input_fields=(InputField("input_ids"), InputField("segment_ids", required=False), ...),
    reference="PORT_PACKAGE.reference:run",
    reference_config=reference_config,
    # For compare-outputs --search: what hurts, revealing_inputs=..., and what makes it fit, fit_inputs=...
    # Once they are written: decoding=DECODING (decoding.py), tokenizer=TOKENIZER (tokenizer.py).
)
