"""The port as the core sees it: `porting.port.Port` says what each field must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from porting.port import Port

from .config import (
    CONFIG_FILES,
    MODEL_TYPE,
    Config,
    config_from_json,
    config_to_json,
    infer_config,
    read_config,
)
from .ids import INPUT_FIELDS, check_ids, random_ids
from .parameters import parameter_shapes
from .revealing import fit_ids, revealing_ids
from .rules import recognises, rules
from .state_dict import state_dict_rules
from .taps import taps
from .tokenizer import TOKENIZER
from .tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    import torch

    from porting.inputs import Inputs

# Google's names of arrays -> transformers', where they differ.
NAMES = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}


def build(config: Config) -> torch.nn.Module:
    """The PyTorch model, on the current default device."""
    from .model import build_model

    return build_model(config)


def run(model: torch.nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
    """Call the model, and return its loss, if it has one; all else is heard in its modules."""
    import torch

    device = next(model.parameters()).device
    arguments = {
        NAMES.get(name, name): torch.from_numpy(array.astype("int64")).to(device)
        for name, array in inputs.arrays().items()
    }
    output = model(**arguments)
    return {} if output.loss is None else {"loss": output.loss}


def reference_config(config: Config, names: Sequence[str]) -> str:
    """The original's own config text, where reference.py needs one. Here it reads config.json's contents."""
    del config, names
    return ""


PORT = Port(
    name="bert",
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
    random_inputs=random_ids,
    check_ids=check_ids,
    input_fields=INPUT_FIELDS,
    revealing_inputs=revealing_ids,
    fit_inputs=fit_ids,
    reference="porting.ports.bert.reference:run",
    reference_config=reference_config,
    tokenizer=TOKENIZER,
    parameter_shapes=parameter_shapes,
    tokenizer_files=tokenizer_files,
    state_dict_rules=state_dict_rules,
)
