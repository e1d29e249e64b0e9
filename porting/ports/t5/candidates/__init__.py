"""Candidate causes that only models like T5 have; the general ones are in `porting/diagnose/candidates/`."""

from __future__ import annotations

from porting.ports.t5.candidates.attention import wrong_scores, wrong_softmax
from porting.ports.t5.candidates.long_attention import wrong_local_attention
from porting.ports.t5.candidates.loss import wrong_loss
from porting.ports.t5.candidates.padding import wrong_padding
from porting.ports.t5.candidates.positions import wrong_buckets, wrong_positions
from porting.ports.t5.candidates.routing import wrong_experts, wrong_routing
from porting.ports.t5.candidates.summaries import (
    wrong_side_buckets,
    wrong_side_projections,
    wrong_summaries,
)
from porting.ports.t5.candidates.tokens import wrong_tokens
from porting.ports.t5.candidates.values import wrong_merge, wrong_values

CANDIDATES = (
    wrong_scores,
    wrong_softmax,
    wrong_values,
    wrong_merge,
    wrong_local_attention,
    wrong_summaries,
    wrong_side_projections,
    wrong_side_buckets,
    wrong_buckets,
    wrong_positions,
    wrong_tokens,
    wrong_padding,
    wrong_routing,
    wrong_experts,
    wrong_loss,
)
