"""Where the port is listened to: module paths, and the names of the dimensions of what they give.

reference.py taps the original under these names. The two lists are made apart on purpose: a tap that only one
side has is reported, never skipped.
"""

from __future__ import annotations

from porting.scaffold import UnfinishedError
from porting.tap import Tap

from .config import Config


def taps(config: Config) -> list[Tap]:
    """Every tapped tensor, in the order of computation."""
    raise UnfinishedError(
        "Return a list such as Tap('embeddings', 'batch length d_model'),"
        " Tap('encoder.layer.0.attention.q', 'batch length (heads d_kv)', {'heads': config.num_heads}),"
        " Tap('logits', 'batch length vocab'), Tap('loss', ''). Begin with the embeddings. Attention"
        " scores need hidden_below, where masks add a large negative number."
    )
