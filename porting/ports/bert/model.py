"""BERT in PyTorch. Its state-dict keys are the rules' targets, its module paths the names of taps.

After Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv 1810.04805), and Google's
`modeling.py` and `run_pretraining.py`, whose functions are named where a formula comes from one.

Shapes: b batch, l length (queries), m memory_length (keys and values), h heads, k d_kv, d d_model, f d_ff,
p predictions (positions at which a masked word is guessed), v vocab.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config

# What attention_layer adds to the score of a position that may not be seen. Not infinity: in a row that may
# see nothing, every score is moved alike, and the weights are those of the scores, rounded at this size.
MASK_ADDER = -10000.0
# What get_masked_lm_output adds to the sum of the weights, so that no weights at all give no loss.
_DENOMINATOR_EPSILON = 1e-5

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


class Activation(nn.Module):
    """An activation function by transformers' name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return _ACTIVATIONS[self.name](x)

    def extra_repr(self) -> str:
        """The name, for `print(model)`."""
        return self.name


class Named(nn.Identity):
    """Gives a tensor inside a module a name that a forward hook can listen to."""

    @property
    def hooked(self) -> bool:
        """Whether anything listens."""
        return bool(self._forward_hooks)


class Embeddings(nn.Module):
    """LayerNorm(word + segment + position), summed in the original's order (`embedding_postprocessor`)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.summed = Named()
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """[b, l], [b, l] -> [b, l, d]"""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        summed = self.summed(words + self.position_embeddings(positions))  # [l, d] is the same in every row
        return self.dropout(self.LayerNorm(summed))


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(k) + mask) v (`attention_layer`)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.dropout_rate = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.scores = Named()
        self.weights = Named()
        self.attended = Named()

    def forward(self, x: Tensor, adder: Tensor) -> Tensor:
        """[b, l, d], [b, 1, 1, m] -> [b, l, d]"""
        q, k, v = (self._split(project(x)) for project in (self.query, self.key, self.value))
        scale = 1.0 / math.sqrt(q.shape[-1])
        rate = self.dropout_rate if self.training else 0.0
        if self.scores.hooked or self.weights.hooked:
            scores = self.scores(q @ k.transpose(-1, -2) * scale + adder)  # [b, h, l, m]
            attended = F.dropout(self.weights(scores.softmax(-1)), rate) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=adder, dropout_p=rate, scale=scale)
        return self.attended(attended).transpose(1, 2).flatten(2)  # [b, h, l, k] -> [b, l, h*k]

    def _split(self, projected: Tensor) -> Tensor:
        """[b, l, h*k] -> [b, h, l, k]"""
        return projected.view(*projected.shape[:2], self.num_heads, -1).transpose(1, 2)


class ResidualOutput(nn.Module):
    """LayerNorm(dense(x) + residual): after attention, and after the feed-forward layer."""

    def __init__(self, config: Config, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.residual = Named()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """[b, l, inner], [b, l, d] -> [b, l, d]"""
        return self.LayerNorm(self.residual(self.dropout(self.dense(x)) + residual))


class Attention(nn.Module):
    """Attention and what follows it; `self` and `output`, as in both originals of the names."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config, config.hidden_size)

    def forward(self, x: Tensor, adder: Tensor) -> Tensor:
        """[b, l, d], [b, 1, 1, m] -> [b, l, d]"""
        return self.output(self.self(x, adder), x)


class Intermediate(nn.Module):
    """act(dense(x)), the inner half of the feed-forward layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = Activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """[b, l, d] -> [b, l, f]"""
        return self.act(self.dense(x))


class Layer(nn.Module):
    """Attention, then a feed-forward layer, each with its residual normalised behind it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config, config.intermediate_size)

    def forward(self, x: Tensor, adder: Tensor) -> Tensor:
        """[b, l, d], [b, 1, 1, m] -> [b, l, d]"""
        attended = self.attention(x, adder)
        return self.output(self.intermediate(attended), attended)


class Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, l, d], [b, m] -> [b, l, d]"""
        adder = ((1.0 - attention_mask.to(x.dtype)) * MASK_ADDER)[:, None, None]
        for layer in self.layer:
            x = layer(x, adder)
        return x


class Pooler(nn.Module):
    """tanh(dense(first position))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden: Tensor) -> Tensor:
        """[b, l, d] -> [b, d]"""
        return self.activation(self.dense(hidden[:, 0]))


class BertEncoder(nn.Module):
    """Embeddings, layers and pooler: transformers' BertModel, Google's `BertModel`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[b, l] each -> hidden states [b, l, d] and what is pooled of them [b, d].

        Without a mask every position is seen, without segments all are the first.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        hidden = self.encoder(self.embeddings(input_ids, segments), mask)
        return hidden, self.pooler(hidden)


class Transform(nn.Module):
    """LayerNorm(act(dense(x))), between the encoder and the words."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.act = Activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """[b, p, d] -> [b, p, d]"""
        return self.LayerNorm(self.act(self.dense(x)))


class PredictionHead(nn.Module):
    """Which word stands at a position: the transform, then the word embeddings, plus a bias for each word."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gathered = Named()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.logits = Named()

    def forward(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        """[b, p, d], [v, d] -> [b, p, v]"""
        return self.logits(F.linear(self.transform(self.gathered(x)), word_embeddings, self.bias))


class PreTrainingHeads(nn.Module):
    """Masked words and next sentences; `seq_relationship` gives [b, 2], and 0 means that it is the next."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.predictions = PredictionHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class MaskedLMLoss(nn.Module):
    """The weighted mean of -log p(word) (`get_masked_lm_output`); each step has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.log_probs = Named()
        self.example_loss = Named()

    def forward(self, logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """[b, p, v], [b, p], [b, p] -> []"""
        log_probs = self.log_probs(logits.log_softmax(-1))
        losses = self.example_loss(-log_probs.gather(-1, ids[..., None])[..., 0])
        weights = weights.to(losses.dtype)
        return (weights * losses).sum() / (weights.sum() + _DENOMINATOR_EPSILON)


class NextSentenceLoss(nn.Module):
    """The mean of -log p(label) (`get_next_sentence_output`)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_probs = Named()
        self.example_loss = Named()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[b, 2], [b] -> []"""
        log_probs = self.log_probs(logits.log_softmax(-1))
        return self.example_loss(-log_probs.gather(-1, labels[:, None])[:, 0]).mean()


@dataclass
class Output:
    """What the models return.

    Attributes:
        last_hidden_state: [b, l, d].
        pooler_output: [b, d].
        prediction_logits: [b, p, v], at all positions if none were given; None without the heads.
        seq_relationship_logits: [b, 2]; 0 means that the second segment follows the first.
        loss: [], the sum of both losses; None unless everything for them was given.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    loss: Tensor | None = None


class BertModel(BertEncoder):
    """The encoder alone, in the layout of transformers' BertModel."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Output:
        """[b, l] each; see `BertEncoder`."""
        return Output(*super().forward(input_ids, attention_mask, token_type_ids))


class BertForPreTraining(nn.Module):
    """The encoder with both heads, in the layout of transformers' BertForPreTraining."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.bert = BertEncoder(config)
        self.cls = PreTrainingHeads(config)
        self.masked_lm_loss = MaskedLMLoss()
        self.next_sentence_loss = NextSentenceLoss()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        masked_lm_positions: Tensor | None = None,
        masked_lm_ids: Tensor | None = None,
        masked_lm_weights: Tensor | None = None,
        next_sentence_labels: Tensor | None = None,
    ) -> Output:
        """Run the model.

        Args:
            input_ids: int64 [b, l].
            attention_mask: [b, l], 1 where a position is seen, 0 where it is padding; all by default.
            token_type_ids: int64 [b, l], the segment of each position; the first by default.
            masked_lm_positions: int64 [b, p], where words are guessed; all positions by default.
            masked_lm_ids: int64 [b, p], the words that stood there.
            masked_lm_weights: [b, p], 1 where a guess counts, 0 where a row has fewer.
            next_sentence_labels: int64 [b], 0 where the second segment follows the first, 1 where not.
        """
        hidden, pooled = self.bert(input_ids, attention_mask, token_type_ids)
        at = hidden
        if masked_lm_positions is not None:  # gather_indexes
            at = hidden.gather(1, masked_lm_positions[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = self.cls.predictions(at, self.bert.embeddings.word_embeddings.weight)
        relation = self.cls.seq_relationship(pooled)
        loss = None
        if masked_lm_ids is not None and masked_lm_weights is not None and next_sentence_labels is not None:
            masked = self.masked_lm_loss(logits, masked_lm_ids, masked_lm_weights)
            loss = masked + self.next_sentence_loss(relation, next_sentence_labels)
        return Output(hidden, pooled, logits, relation, loss)


def build_model(config: Config) -> nn.Module:
    """The model of a config, on the current default device."""
    return BertForPreTraining(config) if config.heads else BertModel(config)
