"""LongT5's attention layers against the original's, in every case of padding and packing.

`data/longt5_attention.npz` holds what `EncoderLocalSelfAttention` and `EtcTransientGlobalSelfAttention` of
github.com/google/flaxformer (commit 399ea3a, Apache-2.0) computed in float32 from random parameters
(`param:PATH`) and inputs: `ids` are eight rows with padding at the end, inside and before, and four with
padding at random, `packed` packed examples, with positions as seqio gives them. Of both: `x:`, the inputs;
`blocks4:` and `segments4:`, what `make_etc_fixed_block_ids` said for blocks of 4, and the outputs of `local3`
(radius 3), `tglobal3_4` (radius 3, blocks of 4) and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from porting.ports.t5 import local_attention
from porting.ports.t5.architecture import Place
from porting.ports.t5.attention_specs import LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.context import StackContext, Visibility
from porting.ports.t5.local_attention import (
    LocalAttention,
    between_blocks,
    into_blocks,
    three_blocks,
    window_position,
)
from porting.ports.t5.transient_global_attention import (
    TransientGlobalAttention,
    positions_in_examples,
    summaries,
    summary_blocks,
)

D_MODEL, HEADS, D_KV = 6, 2, 4
PARAMETERS = {
    "q.weight": "attention/query/kernel",
    "k.weight": "attention/key/kernel",
    "v.weight": "attention/value/kernel",
    "o.weight": "attention/out/kernel",
    "relative_attention_bias.weight": "local/rel_embedding",
    "global_relative_attention_bias.weight": "side/rel_embedding",
    "global_input_layer_norm.weight": "attention/T5LayerNorm_0/scale",
}
LAYERS = {
    "local3": (3, None),
    "local5": (5, None),
    "tglobal3_4": (3, 4),
    "tglobal3_3": (3, 3),
    "tglobal5_4": (5, 4),
    "tglobal5_3": (5, 3),
}


@pytest.fixture(scope="module")
def original() -> Iterator[dict[str, Tensor]]:
    with np.load(Path(__file__).parent / "data" / "longt5_attention.npz") as arrays:
        yield {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def layer(original: dict[str, Tensor], name: str) -> LocalAttention:
    radius, block_size = LAYERS[name]
    sizes = {"num_heads": HEADS, "d_kv": D_KV, "local_radius": radius}
    module: LocalAttention
    if block_size is None:
        spec = LocalAttentionSpec(**sizes, relative_attention_type="bias_shared")
        module = LocalAttention(D_MODEL, Place(0, 0, 0, "", spec), bias_holder=0)
    else:
        spec = TransientGlobalAttentionSpec(
            **sizes, relative_attention_type="bias_shared", global_block_size=block_size
        )
        place = Place(0, 0, 0, "", spec)
        module = TransientGlobalAttention(D_MODEL, place, bias_holder=0, epsilon=1e-6)
    values = {key: original[f"param:{PARAMETERS[key]}"] for key in module.state_dict()}
    module.load_state_dict({key: value.t() for key, value in values.items()})
    return module


def context(ids: Tensor | None, x: Tensor) -> StackContext:
    return StackContext(ids, Visibility(), None, x)


@pytest.mark.parametrize("which", ["ids", "packed"])
@pytest.mark.parametrize("name", LAYERS)
def test_real_positions_are_the_originals(name: str, which: str, original: dict[str, Tensor]) -> None:
    x, ids = original[f"x:{which}"], original[which].long()
    with torch.no_grad():
        found = layer(original, name)(x, context(ids, x))
    expected, real = original[f"{name}:{which}"], ids != 0
    assert float(expected[real].abs().max()) > 1
    assert torch.allclose(found[real], expected[real], rtol=0, atol=1e-5)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("which", ["ids", "packed"])
@pytest.mark.parametrize("block_size", [3, 4])
def test_tokens_belong_to_the_summaries_that_the_original_gives_them(
    block_size: int, which: str, original: dict[str, Tensor]
) -> None:
    block, summary_ids = summary_blocks(original[which].long(), block_size)
    assert torch.equal(block, original[f"blocks{block_size}:{which}"].long())
    # The original calls summaries that no block fills 0, as padding.
    assert torch.equal(summary_ids.clamp(min=0), original[f"segments{block_size}:{which}"].long())


def test_the_recorded_rows_hold_the_cases_that_matter(original: dict[str, Tensor]) -> None:
    ids = original["ids"]
    real = (ids != 0).sum(1).tolist()
    assert 0 in real and 3 in real and ids.shape[1] in real
    inside = [(row[: row.nonzero().max()] == 0).any() for row in ids if row.any()]
    assert sum(map(bool, inside)) >= 6
    assert int(original["packed"].max()) == 4


@pytest.mark.parametrize("name", ["local3", "tglobal3_4"])
def test_no_position_sees_another_example_or_padding(name: str, original: dict[str, Tensor]) -> None:
    module, ids = layer(original, name), original["packed"].long()
    x = original["x:packed"]
    first = ids[:, :1] * (ids == ids[:, :1])
    with torch.no_grad():
        one = module(x, context(ids, x))
        other = module(torch.where(first[..., None] != 0, x, 7 * x.flip(1)), context(ids, x))
    assert torch.equal(one[first != 0], other[first != 0])
    assert not torch.equal(one, other)


def test_padding_inside_a_packed_example_hands_no_token_to_another() -> None:
    ids = torch.tensor([[1, 1, 1, 1, 2, 0, 2, 2, 2, 2, 2, 2]])
    block, summary_ids = summary_blocks(ids, 4)
    assert block.tolist() == [[0, 0, 0, 0, -1, -1, -1, -1, 1, 1, 1, 1]]
    assert summary_ids.tolist() == [[1, 2, -1]]


def test_positions_begin_anew_in_each_example() -> None:
    ids = torch.tensor([[0, 0, 1, 1, 2, 2, 0, 2, 3], [5, 5, 0, 0, 0, 6, 6, 5, 0]])
    assert positions_in_examples(ids).tolist() == [[0, 0, 2, 3, 0, 1, 0, 3, 0], [0, 1, 0, 0, 0, 0, 1, 0, 0]]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("grad", [False, True])
def test_some_blocks_after_the_other_give_what_all_at_once_give(
    name: str, grad: bool, original: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, ids = layer(original, name), original["ids"].long()
    x = original["x:ids"]
    values, gradients = [], []
    for limit in (1 << 30, 1):
        monkeypatch.setattr(local_attention, "_SCORES_AT_ONCE", limit)
        module.zero_grad()
        with torch.set_grad_enabled(grad):
            values.append(module(x, context(ids, x)))
        if grad:
            values[-1][ids != 0].square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    assert torch.allclose(values[0], values[1], rtol=0, atol=1e-5)
    for one, other in zip(*gradients, strict=True) if grad else ():
        assert float(one.abs().max()) > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_where_somebody_listens_all_blocks_are_computed_at_once(
    original: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_attention, "_SCORES_AT_ONCE", 1)
    module, x = layer(original, "tglobal3_4"), original["x:ids"]
    for tap in ("scores", "weights", "side_scores", "side_weights", "side_position_bias"):
        heard: list[tuple[int, ...]] = []
        hook = getattr(module, tap).register_forward_hook(lambda _m, _i, out: heard.append(tuple(out.shape)))  # noqa: B023
        with torch.no_grad():
            module(x, context(None, x))
        hook.remove()
        side = tap.startswith("side")
        pairs = (12, 2, 6, 4, 5 if side else 12)
        assert heard == [(2, 12, 23, 5) if tap == "side_position_bias" else pairs]


def test_weights_of_a_query_sum_to_one_over_positions_and_summaries(original: dict[str, Tensor]) -> None:
    module, x = layer(original, "tglobal3_4"), original["x:ids"]
    sums: list[Tensor] = []
    for tap in (module.weights, module.side_weights):
        tap.register_forward_hook(lambda _m, _i, out: sums.append(out.sum(-1)))
    with torch.no_grad():
        module(x, context(original["ids"].long(), x))
    assert torch.allclose(sums[0] + sums[1], torch.ones_like(sums[0]))
    assert float(sums[1].max()) > 0.5


def test_blocks_and_their_neighbours() -> None:
    x = torch.arange(1, 8)[None]
    blocks = into_blocks(x, 3, -1)
    assert blocks.tolist() == [[[1, 2, 3], [4, 5, 6], [7, -1, -1]]]
    windows = three_blocks(between_blocks(blocks, -1))
    assert windows[0, 0].tolist() == [-1, -1, -1, 1, 2, 3, 4, 5, 6]
    assert windows[0, 2].tolist() == [4, 5, 6, 7, -1, -1, -1, -1, -1]
    assert window_position(3)[1].tolist() == [-4, -3, -2, -1, 0, 1, 2, 3, 4]


def test_summaries_of_half_precision_are_added_in_float32() -> None:
    x = torch.full((1, 512, 1), 1.0, dtype=torch.bfloat16)
    assert summaries(x, torch.zeros(1, 512, dtype=torch.long), 1).tolist() == [[[512.0]]]


def test_inputs_shorter_than_a_summary_have_none(original: dict[str, Tensor]) -> None:
    module, x = layer(original, "tglobal3_4"), original["x:ids"][:, :3]
    with torch.no_grad():
        assert nn.Module.__call__(module, x, context(None, x)).shape == x.shape
