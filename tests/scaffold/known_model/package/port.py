"""The port as the core sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from porting.errors import InputError
from porting.inputs import InputField, Inputs
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

# step 11: absent before
from .decoding import DECODING

# done
from .rules import recognises, rules
from .taps import taps

# step 12: absent before
from .tokenizer import TOKENIZER

# done

if TYPE_CHECKING:
    import torch


def build(config: Config) -> torch.nn.Module:
    from .model import Model

    return Model(config)


def run(model: torch.nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
    import torch

    ids, targets = (torch.from_numpy(inputs[name].astype("int64")) for name in ("inputs", "targets"))
    output = model(ids, targets)
    found = {"logits": output.logits, "loss": output.loss}
    return {name: value for name, value in found.items() if value is not None}


def random_inputs(config: Config, batch: int, length: int, seed: int) -> Inputs:
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, config.n_vocab, size=(batch, min(length, config.n_ctx)))
    for row in range(1, batch):
        ids[row, -3 * row :] = 0
    targets = np.concatenate([ids[:, 1:], np.zeros((batch, 1), ids.dtype)], axis=1)
    return Inputs.from_arrays({"inputs": ids, "targets": targets}, origin=f"random, seed {seed}")


def check_ids(config: Config, inputs: Inputs) -> None:
    inputs.check_range({"inputs": config.n_vocab, "targets": config.n_vocab})
    if inputs["inputs"].shape[1] > config.n_ctx:
        raise InputError(f"The model reads up to {config.n_ctx} ids.")


def reference_config(config: Config, names: Sequence[str]) -> str:
    del config, names
    return ""


PORT = Port(
    name="tiny",
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
    input_fields=(InputField("inputs"), InputField("targets")),
    reference="porting_tiny.reference:run",
    reference_config=reference_config,
    # step 11: absent before
    decoding=DECODING,
    # step 12: absent before
    tokenizer=TOKENIZER,
    # done
)
