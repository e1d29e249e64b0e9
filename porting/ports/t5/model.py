"""T5 in PyTorch, computing what Mesh TensorFlow computes, at padded positions too.

Paper: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
arXiv 1910.10683; gated feed-forward layers: Shazeer, arXiv 2002.05202. State-dict keys are those of
transformers' T5. What differs from transformers, because the original does it so:

- Masks come from sequence ids: a position sees the positions with its own id. Padding has id 0, so padding
  sees padding, and packed examples never see each other.
- What goes into a sublayer is zeroed at padded positions, and so is what leaves a stack.
- A position that sees nothing (padding in the decoder, no padding in the encoder) takes the sum of the
  values, not their mean: see `softmax` in attention.py.
- The loss is the mean over all target positions, padding counted in the denominator.

Shapes are given in comments: b batch, l length (queries), m memory_length (keys and values), d d_model,
v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from porting.ports.t5.attention import T5Attention, Visibility, same_sequence, visibility_bias
from porting.ports.t5.cache import AttentionCache, DecoderCache
from porting.ports.t5.config import T5Config
from porting.ports.t5.generation import generate
from porting.ports.t5.layers import MaskPadding, RMSNorm, T5FeedForward, Tap


class T5Layer(nn.Module):
    """Pre-norm and residual around one sublayer: x + dropout(sublayer(mask(norm(x))))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.mask_padding = MaskPadding()
        self.dropout = nn.Dropout(config.dropout_rate)

    def normed(self, x: Tensor, sequence_ids: Tensor | None) -> Tensor:
        """What the sublayer reads, [b, l, d]."""
        return self.mask_padding(self.layer_norm(x), sequence_ids)


class T5LayerSelfAttention(T5Layer):
    """Self-attention."""

    def __init__(self, config: T5Config, *, bidirectional: bool, has_position_bias: bool) -> None:
        super().__init__(config)
        self.SelfAttention = T5Attention(
            config, bidirectional=bidirectional, has_position_bias=has_position_bias
        )

    def forward(self, x: Tensor, masks: Masks, cache: AttentionCache | None) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        normed = self.normed(x, masks.sequence_ids)
        out = self.SelfAttention(normed, None, masks.itself, masks.position_bias, cache)
        return x + self.dropout(out)


class T5LayerCrossAttention(T5Layer):
    """Attention to the encoder's output."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.EncDecAttention = T5Attention(config)

    def forward(self, x: Tensor, memory: Tensor, masks: Masks, cache: AttentionCache | None) -> Tensor:
        """[b, l, d], [b, m, d] -> [b, l, d]"""
        normed = self.normed(x, masks.sequence_ids)
        return x + self.dropout(self.EncDecAttention(normed, memory, masks.memory, None, cache))


class T5LayerFF(T5Layer):
    """The feed-forward layer."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.DenseReluDense = T5FeedForward(config)

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        return x + self.dropout(self.DenseReluDense(self.normed(x, masks.sequence_ids)))


@dataclass(frozen=True)
class Masks:
    """What the layers of one stack share.

    Attributes:
        sequence_ids: [b, l], 0 at padding; None when no position is padding.
        itself: visibility in self-attention.
        memory: visibility of the encoder's output.
        position_bias: [h, l, m].
    """

    sequence_ids: Tensor | None
    itself: Visibility
    memory: Visibility
    position_bias: Tensor


class T5Block(nn.Module):
    """Self-attention, attention to the encoder in the decoder, feed-forward."""

    def __init__(self, config: T5Config, *, is_decoder: bool, has_position_bias: bool) -> None:
        super().__init__()
        self.is_decoder = is_decoder
        layers: list[T5Layer] = [
            T5LayerSelfAttention(config, bidirectional=not is_decoder, has_position_bias=has_position_bias)
        ]
        if is_decoder:
            layers.append(T5LayerCrossAttention(config))
        layers.append(T5LayerFF(config))
        self.layer = nn.ModuleList(layers)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        masks: Masks,
        cache: tuple[AttentionCache, AttentionCache] | None = None,
    ) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        self_cache, memory_cache = cache or (None, None)
        x = self.layer[0](x, masks, self_cache)
        if self.is_decoder:
            x = self.layer[1](x, memory, masks, memory_cache)
        return self.layer[-1](x, masks)


class T5Stack(nn.Module):
    """The encoder or the decoder: blocks, a final norm, padding zeroed."""

    def __init__(self, config: T5Config, *, is_decoder: bool) -> None:
        super().__init__()
        self.is_decoder = is_decoder
        num_layers = config.num_decoder_layers if is_decoder else config.num_layers
        self.embed_tokens = Tap()  # the embeddings themselves are shared, and belong to the model
        # The first block holds the relative position bias of the whole stack.
        self.block = nn.ModuleList(
            T5Block(config, is_decoder=is_decoder, has_position_bias=i == 0) for i in range(num_layers)
        )
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.mask_padding = MaskPadding()
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        embeddings: Tensor,
        sequence_ids: Tensor | None,
        memory: Tensor | None = None,
        memory_sequence_ids: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Hidden states [b, l, d] from embeddings [b, l, d].

        Args:
            embeddings: of the token ids; with a cache, of the next ones only.
            sequence_ids: [b, l]; None when no position is padding.
            memory: the encoder's output [b, m, d], for the decoder.
            memory_sequence_ids: [b, m].
            cache: keys and values of the positions already decoded.
        """
        offset = cache.length if cache else 0
        masks = self._masks(embeddings, sequence_ids, memory_sequence_ids, offset)
        x = self.dropout(self.embed_tokens(embeddings))
        for i, block in enumerate(self.block):
            x = block(x, memory, masks, cache.blocks[i] if cache else None)
        x = self.dropout(self.final_layer_norm(x))
        return self.mask_padding(x, sequence_ids)

    def _masks(
        self, x: Tensor, sequence_ids: Tensor | None, memory_sequence_ids: Tensor | None, offset: int
    ) -> Masks:
        length = x.shape[1]
        total = offset + length
        biases = []
        if self.is_decoder and length > 1:
            queries = torch.arange(offset, total, device=x.device)[:, None]
            biases.append(visibility_bias(queries >= torch.arange(total, device=x.device))[None, None])
        if sequence_ids is not None:
            biases.append(visibility_bias(same_sequence(sequence_ids, sequence_ids)))
        memory = Visibility()
        if memory_sequence_ids is not None:
            own = x.new_ones(x.shape[:2], dtype=torch.long) if sequence_ids is None else sequence_ids
            memory = Visibility.of_memory(own, memory_sequence_ids)
        return Masks(
            sequence_ids=sequence_ids,
            itself=Visibility(sum(biases[1:], biases[0]) if biases else None),
            memory=memory,
            position_bias=self._first_attention().compute_position_bias(length, total, offset),
        )

    def _first_attention(self) -> T5Attention:
        attention = self.get_submodule("block.0.layer.0.SelfAttention")
        assert isinstance(attention, T5Attention)
        return attention


@dataclass(frozen=True)
class T5Output:
    """What the model returns.

    Attributes:
        logits: [b, l, v].
        loss: scalar, Mesh's loss; None without labels.
        encoder_last_hidden_state: [b, m, d].
    """

    logits: Tensor
    loss: Tensor | None
    encoder_last_hidden_state: Tensor


class T5Model(nn.Module):
    """T5: an encoder and a decoder that share their embeddings, and logits over the vocabulary.

    Example:
        model = load_model("model_dir")
        output = model(input_ids=ids, labels=targets)
        output.loss, output.logits
        model.generate(ids, max_new_tokens=32, num_beams=4)
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, is_decoder=False)
        self.decoder = T5Stack(config, is_decoder=True)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        decoder_sequence_ids: Tensor | None = None,
    ) -> T5Output:
        """Logits, and the loss when labels are given. Arguments are integers [b, length], masks also bool.

        Args:
            input_ids: what the encoder reads; 0 is padding.
            labels: what the decoder is to say; 0 is padding, and so is -100.
            decoder_input_ids: what the decoder reads; by default the labels shifted right from id 0.
            attention_mask, decoder_attention_mask: 0 marks padding.
            sequence_ids, decoder_sequence_ids: for packed examples, which example a position belongs to,
                0 for padding. By default `min(ids, 1)`; a decoder that is given its input ids and no
                labels counts its first position, the start token, as real.

        Raises:
            ValueError: neither labels nor decoder_input_ids, or labels with ids below 0 other than -100.
        """
        encoder_ids = _sequence_ids(input_ids.clamp(max=1), attention_mask, sequence_ids)
        if labels is not None:
            labels = labels.long().masked_fill(labels == -100, 0)
            if bool((labels < 0).any()):
                raise ValueError("labels hold ids below 0 that are not -100")
            own = labels.clamp(max=1)
        elif decoder_input_ids is not None:
            own = decoder_input_ids.clamp(max=1)
            own[:, :1] = 1
        else:
            raise ValueError("give labels or decoder_input_ids")
        decoder_ids = _sequence_ids(own, decoder_attention_mask, decoder_sequence_ids)
        if decoder_input_ids is None:
            assert labels is not None
            decoder_input_ids = shift_right(labels, decoder_ids)

        memory = self.encoder(self.shared(input_ids), encoder_ids)
        hidden = self.decoder(self.shared(decoder_input_ids), decoder_ids, memory, encoder_ids)
        logits = self.project(hidden)
        loss = None if labels is None else self.loss(logits, labels)
        return T5Output(logits, loss, memory)

    def project(self, hidden: Tensor) -> Tensor:
        """[b, l, d] -> logits [b, l, v]. A tied output scales hidden states by d_model**-0.5."""
        if self.config.tie_word_embeddings:
            return F.linear(hidden * self.config.d_model**-0.5, self.shared.weight)
        return self.lm_head(hidden)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy as Mesh evaluates it: summed over real targets, divided by all positions.

        Source: `Unitransformer._compute_loss` and `loss_denominator`; label smoothing spreads over the
        whole vocabulary. Mesh adds its z-loss in training only.

        Args:
            logits: [b, l, v].
            labels: [b, l], 0 at padding.
        """
        each = F.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        real = (labels.flatten() > 0).float()
        return (each * real).sum() / (self.config.loss_denominator or labels.numel())

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int = 64,
        num_beams: int = 1,
        attention_mask: Tensor | None = None,
        length_penalty: float = 0.6,
    ) -> Tensor:
        """Decode greedily, or with beam search as Mesh does it; see `generation.generate`."""
        sequence_ids = _sequence_ids(input_ids.clamp(max=1), attention_mask, None)
        return generate(self, input_ids, sequence_ids, max_new_tokens, num_beams, length_penalty)


def shift_right(labels: Tensor, sequence_ids: Tensor) -> Tensor:
    """Decoder inputs: labels shifted right from id 0, anew in each packed example, [b, l].

    Source: `autoregressive_inputs` in Mesh's transformer.py.
    """
    first = labels.new_zeros(labels.shape[0], 1)
    shifted = torch.cat([first, labels[:, :-1]], dim=1)
    previous_ids = torch.cat([first.to(sequence_ids.dtype), sequence_ids[:, :-1]], dim=1)
    return shifted * (previous_ids == sequence_ids)


def _sequence_ids(default: Tensor, mask: Tensor | None, given: Tensor | None) -> Tensor:
    """The ids given, else ones, at the positions that the mask leaves; else the default."""
    if mask is None:
        return default if given is None else given
    return mask.long() if given is None else given * mask.to(given.dtype)
