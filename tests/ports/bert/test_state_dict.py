"""Directories that transformers and PyTorch saved of a BERT are sources, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from porting.checkpoint import open_checkpoint
from porting.errors import MappingError
from porting.source import STATE_DICT, plan_conversion, resolve_source

SIZES = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
    "hidden_act": "gelu_new",
}
WORDS = "bert.embeddings.word_embeddings.weight"


def saved(folder: Path, kind: str) -> torch.nn.Module:
    model: torch.nn.Module = getattr(transformers, kind)(transformers.BertConfig(**SIZES))
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertModel"])
def test_what_transformers_saved_is_a_source(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path, kind)
    checkpoint = open_checkpoint(tmp_path)
    source = resolve_source(checkpoint)
    assert (source.kind, source.port.name) == (STATE_DICT, "bert")
    plan = plan_conversion(source, checkpoint)
    assert {entry.target for entry in plan.entries} == {name for name, _ in model.named_parameters()}


def test_tied_tables_are_copies_and_positions_no_weights(tmp_path: Path) -> None:
    """As PyTorch saves every name of them, and transformers 4 saved its buffers."""
    model = saved(tmp_path, "BertForPreTraining")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["bert.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    plan = plan_conversion(resolve_source(checkpoint), checkpoint)
    assert plan.copies == {
        "cls.predictions.decoder.weight": WORDS,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    assert list(plan.ignored.values()) == [("bert.embeddings.position_ids",)]


def test_a_head_of_another_task_is_named(tmp_path: Path) -> None:
    saved(tmp_path, "BertModel")
    state = {"qa_outputs.weight": torch.randn(2, 12)}
    state |= {
        name: torch.from_numpy(t.read().copy()) for name, t in open_checkpoint(tmp_path).tensors.items()
    }
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(MappingError, match=r"qa_outputs\.weight"):
        plan_conversion(resolve_source(checkpoint), checkpoint)
