"""One small model of each kind in the family, no two sizes of one model alike."""

from __future__ import annotations

from dataclasses import replace

from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, TalkingHeadsSpec
from porting.ports.t5.layer_specs import FeedForwardSpec, MixtureSpec

OWN = AttentionSpec(
    kind="SelfAttention",
    num_heads=6,
    d_kv=5,
    relative_attention_type="bias_shared",
    relative_attention_num_buckets=8,
    relative_attention_max_distance=16,
)
MEMORY = AttentionSpec(kind="EncDecAttention", num_heads=6, d_kv=5)
DENSE = FeedForwardSpec(d_ff=20)
EXPERTS = MixtureSpec(num_experts=3, d_ff=20, group_size=14, capacity_factor=3.0)
TALKING = TalkingHeadsSpec(
    kind="TalkingHeadsSelfAttention",
    key_heads=(("key_heads", 2),),
    softmax_heads=(("heads", 3),),
    value_heads=(("value_heads", 4),),
    d_k=5,
    d_v=7,
    relative_attention_type="bias",
    relative_attention_num_buckets=8,
    relative_attention_max_distance=16,
)
TALKING_MEMORY = replace(TALKING, kind="TalkingHeadsEncDecAttention", relative_attention_type=None)


def two_stacks(
    own: AttentionSpec | TalkingHeadsSpec = OWN,
    memory: AttentionSpec | TalkingHeadsSpec = MEMORY,
    feed_forward: FeedForwardSpec | MixtureSpec = DENSE,
    first_sentinel_id: int | None = None,
) -> Architecture:
    """An encoder-decoder of these layers."""
    return Architecture(
        vocab_size=50,
        d_model=12,
        encoder=StackSpec(layers=(own, feed_forward), num_blocks=2, autoregressive=False, scope="encoder"),
        decoder=StackSpec(
            layers=(own, memory, feed_forward), num_blocks=2, autoregressive=True, scope="decoder"
        ),
        first_sentinel_id=first_sentinel_id,
    )


def with_positions(kind: str, max_length: int = 40) -> Architecture:
    """Absolute positions and no relative ones."""
    plain = two_stacks(own=replace(OWN, relative_attention_type=None))
    return replace(
        plain,
        encoder=replace(plain.encoder, positions=kind, max_length=max_length),
        decoder=replace(plain.decoder, positions=kind, max_length=max_length),
    )


GROUPED = two_stacks(replace(OWN, num_memory_heads=2), replace(MEMORY, num_memory_heads=3))
SHARED_KV = two_stacks(replace(OWN, num_memory_heads=1, shared_kv=True), replace(MEMORY, shared_kv=True))
UNFOLDED = two_stacks(
    replace(OWN, fold_scaling_into_initializer=False, relative_attention_type="contextual"), MEMORY
)
TALKING_HEADS = two_stacks(TALKING, TALKING_MEMORY)
DYNAMIC_HEADS = two_stacks(
    replace(TALKING, dynamic_projections=("x2l", "x2w")),
    replace(TALKING_MEMORY, dynamic_projections=("m2l",)),
)
LEARNED = with_positions("learned")
SINUSOIDS = with_positions("sinusoid")
MIXTURE = two_stacks(feed_forward=EXPERTS)
SPANS = two_stacks(
    memory=replace(OWN, kind="EncDecAttention", relative_attention_type="bias"), first_sentinel_id=44
)
UNSHARED = replace(
    two_stacks(feed_forward=FeedForwardSpec(d_ff=20, activations=("gelu", "linear", "tanh"), use_bias=True)),
    source_vocab_size=37,
    shared_embedding=False,
    tie_word_embeddings=False,
)
ALIGNED = Architecture(
    vocab_size=50,
    d_model=12,
    encoder=StackSpec(layers=(OWN, DENSE), num_blocks=3, autoregressive=False),
    source_vocab_size=37,
    tie_word_embeddings=False,
)
LANGUAGE_MODEL = Architecture(
    vocab_size=50,
    d_model=12,
    decoder=StackSpec(layers=(OWN, DENSE), num_blocks=3, autoregressive=True),
    scale_embedding=True,
)
PREFIX = Architecture(
    vocab_size=50,
    d_model=12,
    decoder=StackSpec(layers=(OWN, DENSE), num_blocks=3, autoregressive=True, input_full_attention=True),
    loss_on_targets_only=True,
)

FAMILY = {
    "grouped heads": GROUPED,
    "shared keys and values": SHARED_KV,
    "contextual, scaled queries": UNFOLDED,
    "talking heads": TALKING_HEADS,
    "dynamic talking heads": DYNAMIC_HEADS,
    "learned positions": LEARNED,
    "sinusoids": SINUSOIDS,
    "experts": MIXTURE,
    "spans": SPANS,
    "embeddings of their own": UNSHARED,
    "aligned": ALIGNED,
    "language model": LANGUAGE_MODEL,
    "prefix language model": PREFIX,
}
