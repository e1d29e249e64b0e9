"""The rule table: the original's variable names -> state-dict keys, total in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from porting.mapping import Drop, Rule, Shape
from porting.scaffold import UnfinishedError

from .config import Config


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Whether a checkpoint with these variables is of this architecture."""
    raise UnfinishedError(
        "Say by names (and ranks) what tells this architecture's checkpoints from all others, such as"
        ' any(name.startswith("bert/encoder/layer_0/") for name in shapes). Every installed port is asked'
        " about every checkpoint: say no when in doubt. Its variables begin with"
        f" {', '.join(list(shapes)[:8])}."
    )


def rules(config: Config, names: Sequence[str]) -> list[Rule | Drop]:
    """One Rule, or one Drop with a reason, for every variable. A pattern must match the whole name.

    Args:
        config: the model.
        names: the checkpoint's variables, where a table depends on them.
    """
    raise UnfinishedError(
        "Return a list such as Rule(r'bert/encoder/layer_(?P<i>\\d+)/output/dense/kernel',"
        " 'encoder.layer.{i}.output.dense.weight', (Transpose(),)) and Drop(r'global_step', 'global"
        " step'). TensorFlow keeps dense kernels as [in, out], torch.nn.Linear as [out, in]: declare the"
        " Transpose, for where the matrix is square no shape check notices that it is missing. To begin with"
        " proposals: suggest-rules CHECKPOINT FILE.py:FACTORY, of a PyTorch module that has the keys."
    )
