"""The T5 port as the core sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from porting.port import Port
from porting.ports.t5.architecture import MODEL_TYPE
from porting.ports.t5.config import Config, config_from_json
from porting.ports.t5.decoding import DECODING
from porting.ports.t5.naming import infer_config, read_config, recognises, rules
from porting.ports.t5.original_format import MESH
from porting.ports.t5.parameters import parameter_shapes
from porting.ports.t5.revealing import fit_ids, revealing_ids
from porting.ports.t5.spelling import config_to_json
from porting.ports.t5.state_dict import state_dict_rules
from porting.ports.t5.t5x.original_format import T5X, T5X_SCANNED
from porting.ports.t5.t5x.recorded_taps import recorded_names
from porting.ports.t5.t5x.runs import run_of
from porting.ports.t5.tap_buckets import tap_buckets
from porting.ports.t5.taps import taps
from porting.ports.t5.to_gin import gin_from_config
from porting.ports.t5.token_ids import check_ids, random_ids
from porting.ports.t5.tokenizer import TOKENIZER
from porting.ports.t5.tokenizer_files import tokenizer_files

if TYPE_CHECKING:
    import torch

    from porting.diagnose.engine import Candidate
    from porting.inputs import Inputs


def build(config: Config) -> torch.nn.Module:
    """The PyTorch model, on the current default device."""
    from porting.ports.t5.model import T5Model

    return T5Model(config)


def run(model: torch.nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
    """Logits and loss of a T5, ours or any with transformers' calling convention."""
    import torch

    device = next(model.parameters()).device

    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(array.astype("int64")).to(device)

    arguments = {"input_ids": tensor(inputs["inputs"]), "labels": tensor(inputs["targets"])}
    for name in ("sequence_ids", "decoder_sequence_ids"):
        if (ids := inputs.get(name)) is not None:
            arguments[name] = tensor(ids)
    output = model(**arguments)
    return {"logits": output.logits, "loss": output.loss}


def candidates() -> Sequence[Candidate]:
    """Causes that only faults of such models have."""
    from porting.ports.t5.candidates import CANDIDATES

    return CANDIDATES


def extra_files(config: Config) -> Mapping[str, Any]:
    """`generation_config.json`: transformers wants the start token there too."""
    del config
    return {"generation_config.json": {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}}


PORT = Port(
    name="t5",
    model_types=("t5", "mt5", "umt5", "longt5", "switch_transformers", MODEL_TYPE),
    recognises=recognises,
    read_config=read_config,
    infer_config=infer_config,
    config_files=("operative_config.gin", "config.gin", "config.json"),
    config_from_json=config_from_json,
    config_to_json=config_to_json,
    extra_files=extra_files,
    candidates=candidates,
    rules=rules,
    build=build,
    run=run,
    taps=taps,
    random_inputs=random_ids,
    check_ids=check_ids,
    revealing_inputs=revealing_ids,
    fit_inputs=fit_ids,
    reference="porting.ports.t5.reference:run",
    reference_config=gin_from_config,
    run_of=run_of,
    recorded=recorded_names,
    decoding=DECODING,
    relative_buckets=tap_buckets,
    parameter_shapes=parameter_shapes,
    state_dict_rules=state_dict_rules,
    originals={"mesh": MESH, "t5x": T5X, "t5x-scanned": T5X_SCANNED},
    tokenizer=TOKENIZER,
    tokenizer_files=tokenizer_files,
)
