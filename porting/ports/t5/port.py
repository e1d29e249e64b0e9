"""The T5 port as the core sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.config_file import read_config_text, read_json_config
from porting.mapping import Shape
from porting.port import Port, ResolvedConfig
from porting.ports.t5.architecture import MODEL_TYPE
from porting.ports.t5.config import REQUIRED, Config, config_from_json
from porting.ports.t5.decoding import DECODING
from porting.ports.t5.from_gin import config_from_gin
from porting.ports.t5.infer import infer_config
from porting.ports.t5.original_format import MESH
from porting.ports.t5.parameters import parameter_shapes
from porting.ports.t5.proportion import check_proportion
from porting.ports.t5.revealing import fit_ids, revealing_ids
from porting.ports.t5.rules import recognises, rules
from porting.ports.t5.spelling import spelling
from porting.ports.t5.state_dict import state_dict_rules
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


def read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """From an `operative_config.gin` or a `config.json` (by the ending of its name).

    What a config.json leaves open is inferred from the variables, so that one line is enough to override an
    assumption: {"feed_forward_proj": "gated-silu"}.
    """
    resolved = _read_config(path, shapes)
    check_proportion(resolved.config.architecture, shapes)
    return resolved


def _read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    if path.suffix != ".json":
        config, assumed = config_from_gin(path, shapes)
        text = read_config_text(path)
        return ResolvedConfig(config, origin=str(path), assumed=assumed, original_text=text)
    content = read_json_config(path)
    if content.get("model_type") == MODEL_TYPE or all(name in content for name in REQUIRED):
        return ResolvedConfig(config_from_json(content), origin=str(path))
    inferred = infer_config(shapes, content)
    short = spelling(inferred.config, content.get("model_type"))
    answered: Config = config_from_json({**short.to_json(), **content})
    # The answers changed nothing more: where the layers lie stays known.
    if answered == short and config_to_json(inferred.config) == config_to_json(answered):
        answered = inferred.config
    return replace(inferred, config=answered, origin=f"{path}, the rest {inferred.origin}")


def config_to_json(config: Config) -> dict[str, Any]:
    """In transformers' terms where it has the architecture."""
    return spelling(config.architecture, getattr(config, "model_type", None)).to_json()


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
    model_types=("t5", "mt5", "umt5", "switch_transformers", MODEL_TYPE),
    recognises=recognises,
    read_config=read_config,
    infer_config=infer_config,
    config_files=("operative_config.gin", "config.json"),
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
    decoding=DECODING,
    relative_buckets=tap_buckets,
    parameter_shapes=parameter_shapes,
    state_dict_rules=state_dict_rules,
    originals={"mesh": MESH},
    tokenizer=TOKENIZER,
    tokenizer_files=tokenizer_files,
)
