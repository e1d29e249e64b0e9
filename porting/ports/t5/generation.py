"""Decoding as Mesh TensorFlow decodes: greedy, and beam search with its length penalty, with a cache.

Shapes: b batch, n beams, v vocabulary, t tokens so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from porting.ports.t5.cache import DecoderCache

if TYPE_CHECKING:
    from porting.ports.t5.model import T5Model
    from porting.ports.t5.stack import Memory

PAD_ID = 0
EOS_ID = 1
START_ID = 0
# Stands for minus infinity in scores (`INF` in Mesh's beam_search.py).
_INF = 1e7


def generate(
    model: T5Model,
    input_ids: Tensor,
    sequence_ids: Tensor,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float,
) -> Tensor:
    """Token ids that the decoder says after reading the inputs.

    Args:
        model: the model, in eval mode.
        input_ids: int64 [b, l], 0 is padding.
        sequence_ids: [b, l], 0 at padding.
        max_new_tokens: how many tokens to decode at most.
        num_beams: 1 decodes greedily.
        length_penalty: alpha of Mesh's beam search: scores are divided by ((5 + length) / 6)**alpha
            (arXiv 1609.08144, equation 14).

    Returns:
        int64 [b, 1 + t], t <= max_new_tokens: the start token 0, the tokens, 0 after the end (id 1), as
        transformers lays them out.
    """
    if max_new_tokens < 1 or num_beams < 1:
        raise ValueError("max_new_tokens and num_beams must be at least 1")
    step = _Step(model, model.encode(input_ids, sequence_ids))
    if num_beams == 1:
        tokens = _greedy(step, len(input_ids), max_new_tokens)
    else:
        tokens = _beam_search(step, len(input_ids), max_new_tokens, num_beams, length_penalty)
    start = tokens.new_full((len(tokens), 1), START_ID)
    return torch.cat([start, tokens], dim=1)


def continue_sequences(model: T5Model, input_ids: Tensor, max_new_tokens: int) -> Tensor:
    """What a language model says after the beginnings that it is given, greedily.

    Every step computes all positions again: a beginning that sees all of itself (a prefix language model)
    cannot be taken one position at a time.

    Args:
        model: a language model, in eval mode.
        input_ids: int64 [b, l], what the model reads: the start token 0, then tokens, then 0 as padding.
        max_new_tokens: how many tokens to decode at most.

    Returns:
        int64 [b, l + t]: each beginning without its padding, what is said, and 0 after the end (id 1).

    Source: `sample_autoregressive` in Mesh's transformer.py, at temperature 0.
    """
    if max_new_tokens < 1:
        raise ValueError("max_new_tokens must be at least 1")
    stack = model.architecture.stacks["decoder"]
    lengths = 1 + (input_ids[:, 1:] != PAD_ID).sum(1)  # the start token is one
    sequences = F.pad(input_ids, (0, max_new_tokens), value=PAD_ID)
    positions = torch.arange(sequences.shape[1], device=sequences.device)
    beginning = positions < lengths[:, None] if stack.input_full_attention else None
    done = torch.zeros_like(lengths, dtype=torch.bool)
    rows = torch.arange(len(sequences), device=sequences.device)
    for _ in range(max_new_tokens):
        end = int(lengths.max())
        part = None if beginning is None else beginning[:, :end]
        hidden = model.decoder(model.embed(sequences[:, :end]), None, inputs_part=part)
        last = model.project(hidden[rows, lengths - 1])
        token = last.argmax(-1).masked_fill(done, PAD_ID)
        sequences[rows, lengths] = token
        lengths = lengths + (~done).long()
        done |= token == EOS_ID
        if bool(done.all()):
            break
    return sequences[:, : int(lengths.max())]


class _Step:
    """One decoding step at a time, keys and values cached."""

    def __init__(self, model: T5Model, memory: Memory) -> None:
        self.model = model
        self.memory = memory
        self.cache = DecoderCache()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.memory.hidden.device

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits float32 [b, v] after the tokens [b]."""
        hidden = self.model.decoder(self.model.embed(tokens[:, None]), None, self.memory, cache=self.cache)
        return self.model.project(hidden)[:, 0].float()

    def repeat(self, times: int) -> None:
        """Each row of the batch several times, for beams."""
        self.memory = self.memory.repeat(times)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows. The memory of a row never changes among its beams."""
        self.cache.select(rows)


def _greedy(step: _Step, batch: int, max_new_tokens: int) -> Tensor:
    tokens = torch.full((batch,), START_ID, device=step.device)
    done = torch.zeros(batch, dtype=torch.bool, device=tokens.device)
    said = []
    for _ in range(max_new_tokens):
        tokens = step(tokens).argmax(-1).masked_fill(done, PAD_ID)
        said.append(tokens)
        done |= tokens == EOS_ID
        if bool(done.all()):
            break
    return torch.stack(said, dim=1)


def _beam_search(step: _Step, batch: int, max_new_tokens: int, beams: int, alpha: float) -> Tensor:
    """Mesh's `beam_search`: `beams` sequences alive and `beams` finished; 2 * beams candidates a step."""
    device = step.device
    vocabulary = step.model.config.vocab_size
    if 2 * beams > beams * vocabulary:
        raise ValueError(f"{beams} beams need a vocabulary of at least 2")
    step.repeat(beams)
    row = torch.arange(batch, device=device)[:, None]
    alive = torch.full((batch, beams, max_new_tokens), PAD_ID, device=device)
    # All beams start alike: only the first counts.
    alive_log_probs = torch.full((batch, beams), -_INF, device=device)
    alive_log_probs[:, 0] = 0.0
    finished = alive.clone()
    finished_scores = torch.full((batch, beams), -_INF, device=device)
    finished_flags = torch.zeros(batch, beams, dtype=torch.bool, device=device)
    tokens = torch.full((batch * beams,), START_ID, device=device)

    for i in range(max_new_tokens):
        if _no_better_to_come(alive_log_probs, finished_scores, finished_flags, max_new_tokens, alpha):
            break
        log_probs = step(tokens).log_softmax(-1).view(batch, beams, -1) + alive_log_probs[..., None]
        penalty = _penalty(i + 1, alpha)
        scores, flat = (log_probs / penalty).flatten(1).topk(2 * beams, dim=1)  # [b, 2n]
        beam, token = flat // vocabulary, flat % vocabulary
        candidates = alive[row, beam]  # [b, 2n, t]
        candidates[..., i] = token
        ended = token == EOS_ID

        keep = (scores - ended.float() * _INF).topk(beams, dim=1).indices  # [b, n]
        alive, alive_log_probs = candidates[row, keep], (scores * penalty)[row, keep]
        tokens = token[row, keep].flatten()
        step.select((row * beams + beam[row, keep]).flatten())

        all_scores = torch.cat([finished_scores, scores - (~ended).float() * _INF], dim=1)  # [b, 3n]
        finished_scores, best = all_scores.topk(beams, dim=1)
        finished = torch.cat([finished, candidates], dim=1)[row, best]
        finished_flags = torch.cat([finished_flags, ended], dim=1)[row, best]

    result = torch.where(finished_flags.any(1)[:, None], finished[:, 0], alive[:, 0])
    used = int((result != PAD_ID).any(0).nonzero().max()) + 1 if bool((result != PAD_ID).any()) else 1
    return result[:, :used]


def _penalty(length: int, alpha: float) -> float:
    return float(((5.0 + length) / 6.0) ** alpha)


def _no_better_to_come(
    alive_log_probs: Tensor,
    finished_scores: Tensor,
    finished_flags: Tensor,
    max_new_tokens: int,
    alpha: float,
) -> bool:
    """Whether no sequence alive can still beat the worst finished one, in any row."""
    best_alive = alive_log_probs[:, 0] / _penalty(max_new_tokens, alpha)
    worst_finished = (finished_scores * finished_flags.float()).min(1).values
    worst_finished = worst_finished - (~finished_flags.any(1)).float() * _INF
    return bool((worst_finished > best_alive).all())
