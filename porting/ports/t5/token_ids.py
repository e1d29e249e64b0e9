"""Token ids that a model of the family can be run on: made at random, or checked."""

from __future__ import annotations

import numpy as np

from porting.errors import InputError, Problem
from porting.inputs import Inputs, random_inputs
from porting.ports.t5.config import Config

_EOS_ID = 1


def random_ids(config: Config, batch: int, length: int, seed: int) -> Inputs:
    """Random ids as `random_inputs` makes them, in the shape that this model reads.

    A single stack reads one sequence: an aligned model says a token for each that it reads, a language model
    reads what it says, shifted right. Examples of a prefix language model end their inputs part with 1.
    """
    architecture = config.architecture
    limits = [stack.max_length for stack in architecture.stacks.values() if stack.positions]
    length = min([length, *limits])
    source = next(iter(architecture.embedding_rows.values()))
    made = random_inputs(source, batch, length, seed, target_vocab_size=architecture.vocab_size)
    if architecture.is_encoder_decoder:
        return made
    other = random_inputs(architecture.vocab_size, batch, length, seed + 1)["inputs"]
    if architecture.decoder is None:
        return made.having(targets=np.where(made["inputs"] == 0, 0, np.maximum(other, 1)))
    targets = made["inputs"]
    if architecture.decoder.input_full_attention:
        for row in targets:
            real = int((row != 0).sum())
            row[[real // 3, max(real - 1, 0)]] = _EOS_ID
    return made.having(inputs=np.pad(targets, ((0, 0), (1, 0)))[:, :-1], targets=targets)


def check_ids(config: Config, ids: Inputs) -> None:
    """Raise InputError unless the model can read these ids."""
    architecture = config.architecture
    source = next(iter(architecture.embedding_rows.values()))
    ids.check_range({"inputs": source, "targets": architecture.vocab_size})
    problems = []
    if not architecture.is_encoder_decoder:
        if ids["inputs"].shape != ids["targets"].shape:
            found = ids.shapes()
            problems.append(Problem("inputs, targets", "one shape: a single stack reads one sequence", found))
        if ids.get("decoder_sequence_ids") is not None:
            problems.append(
                Problem("decoder_sequence_ids", "none: a single stack reads one sequence", "some")
            )
    named = {"encoder": "inputs", "decoder": "targets" if architecture.is_encoder_decoder else "inputs"}
    for name, stack in architecture.stacks.items():
        length = ids[named[name]].shape[1]
        if stack.positions and length > stack.max_length:
            problems.append(Problem(named[name], f"at most {stack.max_length} positions", f"{length}"))
    if problems:
        raise InputError(f"This model cannot read these inputs ({ids.origin}).", problems=problems)
