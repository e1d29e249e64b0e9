"""Faults in positions: buckets, position biases, absolute positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from benchmarks.corpus.attention import D0, D1, E0, E1
from benchmarks.corpus.fault import T5_LIKE, in_code
from porting.ports.t5.positions import sinusoids
from porting.ports.t5.relative_positions import RelativeAttentionBias

BIASES_E, BIASES_D = (
    rf"{stack}\.block\.\d+\.layer\.0\.SelfAttention\.position_bias" for stack in ("encoder", "decoder")
)


def _tables(model: nn.Module, within: str) -> Iterator[Any]:
    for path, module in model.named_modules():
        if isinstance(module, RelativeAttentionBias) and within in path:
            yield module


def _relative(table: Any, change: Callable[[Tensor], Tensor]) -> None:
    original = table.forward
    table.forward = lambda relative: original(change(relative))


@in_code(
    f"{E0}.position_bias", "buckets order", also=BIASES_E, variants=(*T5_LIKE, "bias of each layer", "switch")
)
def relative_positions_negated(model: nn.Module) -> None:
    for table in _tables(model, "encoder"):
        _relative(table, lambda relative: -relative)


@in_code(f"{D0}.position_bias", "buckets", "direction", also=BIASES_D, variants=(*T5_LIKE, "language model"))
def decoder_counts_positions_ahead(model: nn.Module) -> None:
    for table in _tables(model, "decoder"):
        _relative(table, lambda relative: -relative)


@in_code(f"{E0}.position_bias", "buckets", "offset", also=BIASES_E, variants=(*T5_LIKE, "grouped heads"))
def relative_positions_off_by_one(model: nn.Module) -> None:
    for table in _tables(model, "encoder"):
        _relative(table, lambda relative: relative + 1)


@in_code(f"{E0}.position_bias", "buckets", "bidirectional", also=BIASES_E, variants=T5_LIKE)
def encoder_buckets_look_back_only(model: nn.Module) -> None:
    for table in _tables(model, "encoder"):
        table.bidirectional = False


@in_code(
    f"{D0}.position_bias", "buckets", "bidirectional", also=BIASES_D, variants=(*T5_LIKE, "language model")
)
def decoder_buckets_look_both_ways(model: nn.Module) -> None:
    for table in _tables(model, "decoder"):
        table.bidirectional = True


@in_code(f"{E0}.position_bias", "buckets", "num_buckets", also=BIASES_E, variants=T5_LIKE)
def half_as_many_buckets(model: nn.Module) -> None:
    for table in _tables(model, "encoder"):
        table.spec = replace(table.spec, relative_attention_num_buckets=16)


@in_code(
    f"{D0}.position_bias", "buckets", "max_distance", also=BIASES_D, variants=(*T5_LIKE, "bias of each layer")
)
def buckets_up_to_twice_the_distance(model: nn.Module) -> None:
    for table in _tables(model, "decoder"):
        table.spec = replace(table.spec, relative_attention_max_distance=256)


@in_code(f"{E0}.position_bias", "buckets", "max_distance", also=BIASES_E, variants=T5_LIKE)
def buckets_up_to_127(model: nn.Module) -> None:
    """Only the edges of far buckets move."""
    for table in _tables(model, "encoder"):
        table.spec = replace(table.spec, relative_attention_max_distance=127)


@in_code(f"{E0}.position_bias", "buckets", also=BIASES_E, variants=T5_LIKE)
def distances_beyond_128_have_no_bias(model: nn.Module) -> None:
    """Shows only at long inputs."""
    for table in _tables(model, "encoder"):
        original = table.forward
        table.forward = lambda r, original=original: original(r) * (r.abs() < 128)


@in_code(f"{E0}.position_bias", "order", also=BIASES_E, variants=(*T5_LIKE, "grouped heads"))
def heads_of_the_position_bias_reversed(model: nn.Module) -> None:
    for table in _tables(model, "encoder"):
        original = table.forward
        table.forward = lambda r, original=original: original(r).flip(0)


def _score_bias(module: Any, share: float) -> None:
    def score_bias(position_bias: Tensor | None, context: Any) -> Any:
        tapped = module.position_bias(position_bias)
        bias = module.visibility(context).bias
        return share * tapped if bias is None else bias + share * tapped

    module.score_bias = score_bias


@in_code(
    f"{E1}.scores",
    "bias",
    "no position bias",
    also=r".*\.block\.[1-9]\..*SelfAttention\.scores",
    variants=(*T5_LIKE, "shared kv"),
)
def position_bias_left_out_after_the_first_block(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if path.endswith("SelfAttention") and ".block.0." not in path:
            _score_bias(module, 0.0)


@in_code(
    f"{D0}.scores",
    "bias",
    "no position bias",
    also=r"decoder.*SelfAttention\.scores",
    variants=(*T5_LIKE, "language model"),
)
def position_bias_left_out_of_the_decoder(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if path.startswith("decoder") and path.endswith("SelfAttention"):
            _score_bias(module, 0.0)


@in_code(f"{E0}.scores", "bias", "2 times", variants=(*T5_LIKE, "bias of each layer"))
def position_bias_added_twice(model: Any) -> None:
    _score_bias(model.encoder.block[0].layer[0].SelfAttention, 2.0)


@in_code("decoder.block.1.layer.0.TalkingHeadsSelfAttention.scores", "bias sum", variants=("talking heads",))
def talking_heads_position_bias_left_out(model: Any) -> None:
    _score_bias(model.decoder.block[1].layer[0].TalkingHeadsSelfAttention, 0.0)


@in_code(f"{D1}.scores", "bias", "exchanged", variants=T5_LIKE)
def position_bias_transposed_as_it_is_added(model: Any) -> None:
    module = model.decoder.block[1].layer[0].SelfAttention

    def score_bias(position_bias: Tensor, context: Any) -> Any:
        return module.visibility(context).bias + module.position_bias(position_bias).transpose(-1, -2)

    module.score_bias = score_bias


@in_code(f"{E1}.scores", "bias", "encoder.block.0", variants=("bias of each layer",))
def position_bias_of_the_first_layer_added_in_the_second(model: Any) -> None:
    first, second = (model.encoder.block[i].layer[0].SelfAttention for i in (0, 1))

    def score_bias(position_bias: Tensor, context: Any) -> Any:
        second.position_bias(position_bias)
        return second.visibility(context).bias + first.relative_attention_bias(context.relative_position)

    second.score_bias = score_bias


# --- absolute positions


@in_code("encoder.embed_positions", "positions", "from 1 on", variants=("learned positions",))
def positions_begin_at_one(model: Any) -> None:
    module = model.encoder.embed_positions
    module.forward = lambda x, _offset=0: x + module.weight[1 : 1 + x.shape[1]]


@in_code("decoder.embed_positions", "positions", "no positions", variants=("learned positions",))
def decoder_positions_left_out(model: Any) -> None:
    model.decoder.embed_positions.forward = lambda x, _offset=0: x


@in_code("encoder.embed_positions", "positions", "sinusoids", variants=("learned positions",))
def sinusoids_for_learned_positions(model: Any) -> None:
    model.encoder.embed_positions.forward = lambda x, _offset=0: x + sinusoids(x.shape[1], x.shape[2])
