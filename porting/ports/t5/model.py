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

A stack is built from the list of layers in its spec, each kind of layer in a file of its own.

Shapes are given in comments: b batch, l length (queries), m memory_length (keys and values), d d_model,
v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.config import Config
from porting.ports.t5.generation import continue_sequences, generate
from porting.ports.t5.layers import Tap, TokenEmbedding
from porting.ports.t5.positions import inputs_region
from porting.ports.t5.sharing import share_parameters
from porting.ports.t5.stack import Memory, T5Stack


@dataclass(frozen=True)
class T5Output:
    """What the model returns.

    Attributes:
        logits: [b, l, v].
        loss: scalar, Mesh's loss; None without labels.
        encoder_last_hidden_state: [b, m, d]; None where there is no encoder.
    """

    logits: Tensor
    loss: Tensor | None
    encoder_last_hidden_state: Tensor | None


class T5Model(nn.Module):
    """T5: an encoder and a decoder that share their embeddings, and logits over the vocabulary.

    Others of the family may have embeddings of their own, or one stack alone: a language model (a decoder)
    or an aligned model (an encoder, which says one token for each it reads).

    Example:
        model = load_model("model_dir")
        output = model(input_ids=ids, labels=targets)
        output.loss, output.logits
        model.generate(ids, max_new_tokens=32, num_beams=4)
    """

    shared: TokenEmbedding
    encoder: T5Stack
    decoder: T5Stack
    lm_head: nn.Linear

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.architecture = architecture = config.architecture
        if architecture.shares_embedding:
            self.shared = TokenEmbedding(
                config.vocab_size, config.d_model, scaled=architecture.scale_embedding
            )
        for name, stack in architecture.stacks.items():
            rows = architecture.embedding_rows[name]
            scaled = architecture.scale_embedding
            own = (
                None if architecture.shares_embedding else TokenEmbedding(rows, config.d_model, scaled=scaled)
            )
            self.add_module(name, T5Stack(architecture, stack, own or Tap()))
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.logits = Tap()
        share_parameters(self, architecture)

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
            input_ids: what the encoder reads; 0 is padding. A language model reads them already shifted,
                beginning with id 0.
            labels: what the model is to say; 0 is padding, and so is -100.
            decoder_input_ids: what the decoder reads; by default the labels shifted right from id 0.
            attention_mask, decoder_attention_mask: 0 marks padding.
            sequence_ids, decoder_sequence_ids: for packed examples, which example a position belongs to,
                0 for padding. By default `min(ids, 1)`; of a language model, of its labels. One that is
                given what it reads and no labels counts its first position, the start token, as real.

        Raises:
            ValueError: neither labels nor decoder_input_ids, or labels with ids below 0 other than -100.
        """
        if labels is not None:
            labels = labels.long().masked_fill(labels == -100, 0)
            if bool((labels < 0).any()):
                raise ValueError("labels hold ids below 0 that are not -100")
        if not self.architecture.is_encoder_decoder:
            return self._one_stack(input_ids, labels, attention_mask, sequence_ids)
        encoder_ids = _sequence_ids(input_ids.clamp(max=1), attention_mask, sequence_ids)
        if labels is not None:
            own = labels.clamp(max=1)
        elif decoder_input_ids is not None:
            own = _said(decoder_input_ids)
        else:
            raise ValueError("give labels or decoder_input_ids")
        decoder_ids = _sequence_ids(own, decoder_attention_mask, decoder_sequence_ids)
        if decoder_input_ids is None:
            assert labels is not None
            decoder_input_ids = shift_right(labels, decoder_ids)

        losses: list[Tensor] = []
        memory = self.encode(input_ids, encoder_ids, losses)
        part = _inputs_part(self.architecture.stacks["decoder"], decoder_input_ids, labels)
        embedded = self.embed(decoder_input_ids)
        hidden = self.decoder(embedded, decoder_ids, memory, decoder_input_ids, part, losses=losses)
        logits = self.project(hidden)
        loss = None if labels is None else sum(losses, self.loss(logits, labels))
        return T5Output(logits, loss, memory.hidden)

    def _one_stack(
        self, input_ids: Tensor, labels: Tensor | None, mask: Tensor | None, given: Tensor | None
    ) -> T5Output:
        """A language model, or an aligned one."""
        name = self.architecture.output_stack
        stack = self.architecture.stacks[name]
        if not stack.autoregressive:
            default = input_ids.clamp(max=1)
        else:
            default = _said(input_ids) if labels is None else labels.clamp(max=1)
        ids = _sequence_ids(default, mask, given)
        part = _inputs_part(stack, input_ids, labels)
        losses: list[Tensor] = []
        hidden = getattr(self, name)(self.embed(input_ids), ids, inputs_part=part, losses=losses)
        logits = self.project(hidden)
        loss = None if labels is None else sum(losses, self.loss(logits, labels))
        return T5Output(logits, loss, None)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [b, l] as a stack takes them: embedded [b, l, d] where the embedding is shared."""
        return self.shared(ids) if self.architecture.shares_embedding else ids

    def encode(self, input_ids: Tensor, sequence_ids: Tensor, losses: list[Tensor] | None = None) -> Memory:
        """The encoder's output for ids [b, m]."""
        hidden = self.encoder(self.embed(input_ids), sequence_ids, losses=losses)
        return Memory(hidden, sequence_ids, input_ids)

    def project(self, hidden: Tensor) -> Tensor:
        """[b, l, d] -> logits [b, l, v]. A tied output scales hidden states by d_model**-0.5."""
        if not self.config.tie_word_embeddings:
            return self.logits(self.lm_head(hidden))
        if not self.architecture.scale_embedding:
            hidden = hidden * self.config.d_model**-0.5
        return self.logits(F.linear(hidden, self.output_embedding.weight))

    @property
    def output_embedding(self) -> nn.Embedding:
        """The embedding that a tied output shares."""
        stack = self.get_submodule(self.architecture.output_stack)
        embedding = self.shared if self.architecture.shares_embedding else stack.get_submodule("embed_tokens")
        assert isinstance(embedding, nn.Embedding)
        return embedding

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
        if self.architecture.loss_on_targets_only:
            real = real * ~inputs_region(labels).flatten()
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
        """Decode greedily, or with beam search as Mesh does it; see generation.py.

        A language model goes on from input_ids, greedily: the start token 0, then what was said so far.

        Raises:
            ValueError: an aligned model, which says one token for each it reads; or beams of a language
                model, which Mesh has not either.
        """
        if not self.architecture.is_encoder_decoder:
            if self.architecture.decoder is None:
                raise ValueError("an aligned model does not generate: call it, and take the best logits")
            if num_beams != 1:
                raise ValueError("a language model decodes greedily: num_beams must be 1")
            return continue_sequences(self, input_ids, max_new_tokens)
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


def _said(input_ids: Tensor) -> Tensor:
    """Sequence ids of what a decoder has said so far: `min(ids, 1)`, the start token counted as real."""
    ids = input_ids.clamp(max=1)
    ids[:, :1] = 1
    return ids


def _inputs_part(stack: StackSpec, input_ids: Tensor, labels: Tensor | None) -> Tensor | None:
    """Positions that see all of the inputs part of their example, bool [b, l]; None if there is none.

    The last is the one that says the first target. Without labels, they are what was shifted right to the
    inputs; the last of them is not known, and decides nothing.
    """
    if not stack.input_full_attention:
        return None
    part = inputs_region(F.pad(input_ids[:, 1:], (0, 1)) if labels is None else labels)
    return part | F.pad(part, (1, -1))


def _sequence_ids(default: Tensor, mask: Tensor | None, given: Tensor | None) -> Tensor:
    """The ids given, else ones, at the positions that the mask leaves; else the default."""
    if mask is None:
        return default if given is None else given
    return mask.long() if given is None else given * mask.to(given.dtype)
