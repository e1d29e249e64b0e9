"""T5X's variables become the state dict that computes what T5X computed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from porting.errors import MappingError
from porting.ports.t5.port import PORT
from porting.ports.t5.rules import recognises as is_mesh
from porting.source import plan_conversion, resolve_source
from tests.ports.t5.t5x.checkpoints import (
    D_KV,
    D_MODEL,
    DECODER,
    ENCODER,
    HEADS,
    VOCAB,
    Recorded,
    converted,
    in_memory,
    random_arrays,
    recorded,
    scalable_shapes,
    t5_shapes,
)

FORMS = {
    "1.1": t5_shapes(),
    "1.0": t5_shapes(gated=False, tied=True),
    "1.1, tied": t5_shapes(tied=True),
    "a large vocabulary": t5_shapes(vocab=1003),
    "scalable": scalable_shapes(scanned=False),
    "scanned": scalable_shapes(scanned=True),
}
# What T5X's own importer makes of Mesh's variables: `t5_importer` in its checkpoint_importer.py, read and
# written down. Mesh's name, T5X's name, our parameter.
IMPORTED = """
shared/embedding                                            token_embedder/embedding                    shared
encoder/block_001/layer_000/SelfAttention/q                 encoder/layers_1/attention/query/kernel     encoder.block.1.layer.0.SelfAttention.q
encoder/block_001/layer_000/SelfAttention/k                 encoder/layers_1/attention/key/kernel       encoder.block.1.layer.0.SelfAttention.k
encoder/block_001/layer_000/SelfAttention/v                 encoder/layers_1/attention/value/kernel     encoder.block.1.layer.0.SelfAttention.v
encoder/block_001/layer_000/SelfAttention/o                 encoder/layers_1/attention/out/kernel       encoder.block.1.layer.0.SelfAttention.o
encoder/block_001/layer_000/layer_norm/scale                encoder/layers_1/pre_attention_layer_norm/scale   encoder.block.1.layer.0.layer_norm
encoder/block_001/layer_001/DenseReluDense/wi_0/kernel      encoder/layers_1/mlp/wi_0/kernel            encoder.block.1.layer.1.DenseReluDense.wi_0
encoder/block_001/layer_001/DenseReluDense/wi_1/kernel      encoder/layers_1/mlp/wi_1/kernel            encoder.block.1.layer.1.DenseReluDense.wi_1
encoder/block_001/layer_001/DenseReluDense/wo/kernel        encoder/layers_1/mlp/wo/kernel              encoder.block.1.layer.1.DenseReluDense.wo
encoder/block_001/layer_001/layer_norm/scale                encoder/layers_1/pre_mlp_layer_norm/scale   encoder.block.1.layer.1.layer_norm
encoder/block_000/layer_000/SelfAttention/relative_attention_bias  encoder/relpos_bias/rel_embedding    encoder.block.0.layer.0.SelfAttention.relative_attention_bias
encoder/final_layer_norm/scale                              encoder/encoder_norm/scale                  encoder.final_layer_norm
decoder/block_001/layer_000/SelfAttention/q                 decoder/layers_1/self_attention/query/kernel     decoder.block.1.layer.0.SelfAttention.q
decoder/block_001/layer_000/layer_norm/scale                decoder/layers_1/pre_self_attention_layer_norm/scale   decoder.block.1.layer.0.layer_norm
decoder/block_001/layer_001/EncDecAttention/k               decoder/layers_1/encoder_decoder_attention/key/kernel  decoder.block.1.layer.1.EncDecAttention.k
decoder/block_001/layer_001/EncDecAttention/o               decoder/layers_1/encoder_decoder_attention/out/kernel  decoder.block.1.layer.1.EncDecAttention.o
decoder/block_001/layer_001/layer_norm/scale                decoder/layers_1/pre_cross_attention_layer_norm/scale  decoder.block.1.layer.1.layer_norm
decoder/block_001/layer_002/DenseReluDense/wo/kernel        decoder/layers_1/mlp/wo/kernel              decoder.block.1.layer.2.DenseReluDense.wo
decoder/block_001/layer_002/layer_norm/scale                decoder/layers_1/pre_mlp_layer_norm/scale   decoder.block.1.layer.2.layer_norm
decoder/block_000/layer_000/SelfAttention/relative_attention_bias  decoder/relpos_bias/rel_embedding    decoder.block.0.layer.0.SelfAttention.relative_attention_bias
decoder/final_layer_norm/scale                              decoder/decoder_norm/scale                  decoder.final_layer_norm
decoder/logits/kernel                                       decoder/logits_dense/kernel                 lm_head
"""  # noqa: E501


@pytest.fixture(params=["t5x/v1_1", "t5x/scanned"])
def original(request: pytest.FixtureRequest) -> Recorded:
    return recorded(request.param)


def test_the_state_dict_computes_what_t5x_computed(original: Recorded) -> None:
    source, _, state = converted(original.checkpoint)
    model = PORT.build(source.resolved.config)
    arrays = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    assert not unexpected
    assert {*missing} <= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    inputs, targets = (
        torch.from_numpy(original.recording[name].astype(np.int64)) for name in ("inputs", "targets")
    )
    with torch.no_grad():
        logits = model.eval()(input_ids=inputs, labels=targets).logits.numpy()
    real = original.recording["targets"] != 0
    assert real.sum() > 20
    assert np.ptp(original.recording["logits"][real]) > 1
    np.testing.assert_allclose(logits[real], original.recording["logits"][real], atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_every_variable_has_a_home_and_every_parameter_a_source(form: str) -> None:
    arrays = random_arrays(FORMS[form])
    source, plan, state = converted(in_memory(arrays))
    assert {name for entry in plan.entries for name in entry.sources} == {*arrays}
    assert [*state] == [*PORT.parameter_shapes(source.resolved.config)]  # type: ignore[misc]
    assert sum(value.size for value in state.values()) == sum(value.size for value in arrays.values())


def test_it_agrees_with_t5xs_own_importer_name_for_name() -> None:
    rows = [line.split() for line in IMPORTED.strip().splitlines()]
    _, plan, _ = converted(in_memory(random_arrays(t5_shapes())))
    sources = {entry.target: entry.sources for entry in plan.entries}
    for _, theirs, ours in rows:
        assert sources[f"{ours}.weight"] == (f"target/{theirs}",)
    mesh = {"shared/embedding": (VOCAB, D_MODEL), **{name: (1,) for name, _, _ in rows}}
    assert is_mesh(mesh)
    table = PORT.rules(converted(in_memory(random_arrays(t5_shapes())))[0].resolved.config, [*mesh])
    for name, _, ours in rows:
        (rule,) = [rule for rule in table if rule.regex.fullmatch(name)]
        ((target, _),) = rule.targets_for(rule.regex.fullmatch(name))  # type: ignore[union-attr, arg-type]
        assert target == f"{ours}.weight"


def test_a_kernel_of_a_scanned_stack_is_taken_apart_along_its_second_axis() -> None:
    arrays = random_arrays(scalable_shapes(scanned=True))
    _, _, state = converted(in_memory(arrays))
    query = arrays["target/encoder/encoder/attention/query/kernel"]
    out = arrays["target/decoder/decoder/encoder_decoder_attention/out/kernel"]
    table = arrays["target/decoder/decoder/relpos_bias/rel_embedding"]
    norm = arrays["target/encoder/encoder/pre_mlp_layer_norm/scale"]
    for i in range(ENCODER):
        block = f"encoder.block.{i}.layer"
        flat = query[:, i].reshape(D_MODEL, HEADS * D_KV)
        np.testing.assert_array_equal(state[f"{block}.0.SelfAttention.q.weight"], flat.T)
        np.testing.assert_array_equal(state[f"{block}.1.layer_norm.weight"], norm[:, i])
    for i in range(DECODER):
        block = f"decoder.block.{i}.layer"
        flat = out[:, i].reshape(HEADS * D_KV, D_MODEL)
        np.testing.assert_array_equal(state[f"{block}.1.EncDecAttention.o.weight"], flat.T)
        bias = state[f"{block}.0.SelfAttention.relative_attention_bias.weight"]
        np.testing.assert_array_equal(bias, table[:, i].T)


def test_what_the_optimizer_keeps_is_left_out_with_its_reason() -> None:
    arrays = random_arrays(t5_shapes())
    kernel = "decoder/logits_dense/kernel"
    slots = {f"state/param_states/{kernel}/{slot}": np.zeros(1, np.float32) for slot in ("m", "v", "v_row")}
    slots |= {f"state/param_states/0/mu/{kernel}": np.zeros(1, np.float32)}
    step = {"state/step": np.zeros((), np.int32)}
    _, plan, _ = converted(in_memory({**arrays, **slots, **step}))
    assert plan.ignored_counts() == {"optimizer state": 4, "global step": 1}


@pytest.mark.parametrize(
    "name",
    [
        "flax_mutables/batch_stats/mean",
        "state/other",
        "target/encoder/layers_0/attention/T5LayerNorm_0/scale",
        "target/encoder/layers_0/mlp/wo/bias",
        "target/decoder/layers_0/mlp/wi_fused/kernel",
        "target/encoder/layers_01/mlp/wo/kernel",
        "something",
    ],
)
def test_what_no_rule_knows_is_refused_by_name(name: str) -> None:
    arrays = {**random_arrays(t5_shapes()), name: np.zeros((D_MODEL,), np.float32)}
    with pytest.raises(MappingError) as caught:
        converted(in_memory(arrays))
    assert any(name in f"{problem.key} {problem.found}" for problem in caught.value.problems)


@pytest.mark.parametrize("form", ["1.1", "scanned"])
def test_all_that_is_missing_is_listed(form: str) -> None:
    layer = "layers_1" if form == "1.1" else "encoder"
    gone = [
        f"target/encoder/{layer}/attention/value/kernel",
        f"target/encoder/{layer}/pre_mlp_layer_norm/scale",
        "target/encoder/encoder_norm/scale",
    ]
    arrays = {name: array for name, array in random_arrays(FORMS[form]).items() if name not in gone}
    checkpoint = in_memory(arrays)
    with pytest.raises(MappingError) as caught:
        plan_conversion(resolve_source(checkpoint), checkpoint)
    keys = " ".join(problem.key for problem in caught.value.problems)
    for parameter in (
        r"encoder\.block\.1\.layer\.0\.SelfAttention\.v\.weight",
        r"encoder\.block\.1\.layer\.1\.layer_norm\.weight",
        r"encoder\.final_layer_norm\.weight",
    ):
        assert re.search(parameter, keys)
