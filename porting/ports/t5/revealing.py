"""Inputs on which ports of T5 go wrong, and what is left of an input as one that a model can read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from porting.inputs import Inputs
from porting.ports.t5.attention_specs import (
    LocalAttentionSpec,
    RelativePositions,
    TransientGlobalAttentionSpec,
)
from porting.ports.t5.config import Config
from porting.search.revealing import LENGTHS, Labelled, revealing_inputs

_EOS_ID = 1
_FAR = 1024  # longer inputs than this take the original minutes


def revealing_ids(config: Config) -> Iterator[Labelled]:
    """Chosen inputs, then mixtures without end, at lengths where relative positions change their buckets."""
    architecture = config.architecture
    source = next(iter(architecture.embedding_rows.values()))
    prefix = architecture.decoder is not None and architecture.decoder.input_full_attention
    made = revealing_inputs(source, target_vocab_size=architecture.vocab_size, lengths=lengths(config))
    for label, ids in made:
        if prefix:
            _end_parts(ids["targets"])
        yield label, fit_ids(config, ids)


def lengths(config: Config) -> list[int]:
    """Lengths at the model's edges, in order.

    A sequence of length n has distances up to n - 1: for the first and the last edge of the buckets, the
    lengths just below and just above. Also 128, the largest distance of the published models. For LongT5's
    attention: below and above a block, and more than the three that a query meets; for summaries the same.
    """
    stacks = config.architecture.stacks.values()
    found = {1, 2, 128, 129}
    for stack in stacks:
        for spec in stack.layers:
            if isinstance(spec, RelativePositions) and spec.relative_attention_type:
                edges = bucket_edges(spec, bidirectional=stack.bidirectional)
                distance = spec.relative_attention_max_distance
                around = (edges[0], edges[-1], distance)
                found |= {n + more for n in around for more in (0, 1)} | {distance + distance // 4}
            if isinstance(spec, LocalAttentionSpec):
                found |= {spec.block_length + more for more in (0, 1)} | {3 * spec.block_length + 1}
            if isinstance(spec, TransientGlobalAttentionSpec):
                found |= {spec.global_block_size + more for more in (-1, 0, 1)}
    if len(found) == 4:  # no relative positions anywhere
        found |= set(LENGTHS)
    limit = min([_FAR, *(stack.max_length for stack in stacks if stack.positions)])
    return sorted(min(n, limit) for n in found)


def bucket_edges(spec: RelativePositions, *, bidirectional: bool) -> list[int]:
    """Distances to the past that lie in another bucket than the next smaller one, where buckets hold many."""
    import torch

    from porting.ports.t5.relative_positions import buckets

    of = buckets(
        spec, -torch.arange(2 * spec.relative_attention_max_distance + 2), bidirectional=bidirectional
    ).tolist()
    wide = [n for n in range(1, len(of) - 1) if of[n] != of[n - 1] and of[n] == of[n + 1]]
    return wide or [1]


def _end_parts(targets: np.ndarray) -> None:
    """Examples of a prefix language model: inputs, 1, targets, 1."""
    for row in targets:
        real = np.flatnonzero(row)
        if len(real):
            row[[real[len(real) // 3], real[-1]]] = _EOS_ID


def fit_ids(config: Config, ids: Inputs) -> Inputs:
    """The ids as this model reads them; those that it can read stay as they are.

    A single stack reads one sequence: the two sides are cut to one length, and a language model reads what
    it says, shifted right from id 0 anew in each packed example.
    """
    architecture = config.architecture
    changed: dict[str, Any] = ids.arrays()
    named = {"encoder": "inputs", "decoder": "targets"}
    for name, stack in architecture.stacks.items():
        if stack.positions:
            for field in (named[name], f"{'decoder_' if name == 'decoder' else ''}sequence_ids"):
                if field in changed:
                    changed[field] = changed[field][:, : stack.max_length]
    if architecture.is_encoder_decoder:
        return ids.having(**changed)
    if architecture.decoder is None:
        length = min(changed["inputs"].shape[1], changed["targets"].shape[1])
        segments = changed.get("sequence_ids")
    else:
        length = changed["targets"].shape[1]
        segments = changed.get("decoder_sequence_ids", changed.get("sequence_ids"))
    if segments is not None:
        length = min(length, segments.shape[1])
        segments = segments[:, :length]
    targets, inputs = changed["targets"][:, :length], changed["inputs"][:, :length]
    if architecture.decoder is not None:
        inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        if segments is not None:
            same = np.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (1, 0)))
            inputs = np.where(same, inputs, 0)
    return ids.having(inputs=inputs, targets=targets, sequence_ids=segments, decoder_sequence_ids=None)
