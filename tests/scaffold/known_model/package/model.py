"""The PyTorch model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import Config

EPSILON = 1e-3
END = 1


@dataclass
class Output:
    """`logits`: [batch, length, n_vocab]; `loss`: []."""

    logits: Tensor
    loss: Tensor | None = None


class Embeddings(nn.Module):
    """What is read, and where it stands."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        # Weights given: drawing them on the meta device would load torch._dynamo, which takes seconds.
        words, positions = (torch.empty(n, config.n_embd) for n in (config.n_vocab, config.n_ctx))
        self.wte = nn.Embedding(*words.shape, _weight=words)
        self.wpe = nn.Embedding(*positions.shape, _weight=positions)

    def forward(self, ids: Tensor) -> Tensor:
        return self.wte(ids) + self.wpe.weight[: ids.shape[1]]


class Attention(nn.Module):
    """Causal; head after head within each of q, k and v."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        inner = config.n_head * config.d_head
        self.c_attn = nn.Linear(config.n_embd, 3 * inner)
        self.weights = nn.Identity()
        self.c_proj = nn.Linear(inner, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        split = self.c_attn(x).view(batch, length, 3, self.config.n_head, self.config.d_head)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind()
        scores = q @ k.transpose(-1, -2) * self.config.d_head**-0.5
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = self.weights(scores.masked_fill(hidden, -1e10).softmax(-1))
        return self.c_proj((weights @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """One hidden layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 3 * config.n_embd + 1)
        self.c_proj = nn.Linear(3 * config.n_embd + 1, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.c_fc(x).relu())


class Block(nn.Module):
    """Norm, attention, norm, feed-forward, each added to what came in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, EPSILON)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, EPSILON)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Model(nn.Module):
    """A decoder-only language model, its output tied to its embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, EPSILON)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        # step 5: unfinished before
        x = self.embeddings(input_ids)
        # step 6: unfinished before
        x = self.h[0](x)
        # step 7: unfinished before
        for block in self.h[1:]:
            x = block(x)
        x = self.ln_f(x)
        # step 8: unfinished before
        logits = x @ self.embeddings.wte.weight.T
        loss = None
        # step 9: absent before
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)
        # done
        return Output(logits, loss)

    # step 11: absent before
    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int = 32, num_beams: int = 1) -> Tensor:
        """New ids [batch, max_new_tokens], 0 behind an end."""
        assert num_beams == 1
        said = torch.zeros(len(input_ids), max_new_tokens, dtype=torch.long)
        for row, ids in enumerate(input_ids):
            tokens = ids[ids != 0]
            for step in range(max_new_tokens):
                said[row, step] = self(tokens[None]).logits[0, -1].argmax()
                if said[row, step] == END:
                    break
                tokens = torch.cat([tokens, said[row, step : step + 1]])
        return said

    # done
