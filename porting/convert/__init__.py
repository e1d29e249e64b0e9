"""A checkpoint -> a model directory, and back: every shape asserted, nothing skipped, never half of it.

conversion.py   convert_checkpoint: all of it, in order
target.py       what is written: a model directory (to_pytorch.py), an original's checkpoint (to_original.py)
layout.py       where every tensor will lie, before one is read
stream.py       read, check, make, write, read back, a few tensors at a time
pacing.py       how much is in hand at a time, and when it goes to the disk
blocks.py       copying and comparing by tiles; dtypes.py: rounding
verify.py       what was written, back through the inverse of every op, against the source
unfinished.py   the directory beside the output that takes its name when it is whole
manifest.py     porting.json; checksums.py: what it is made of; check.py: a directory held against it later;
                remembered.py: what of it the way back to the original needs
"""

from porting.convert.check import Checked, check_directory
from porting.convert.conversion import Conversion, convert_checkpoint
from porting.convert.layout import parse_size

__all__ = ["Checked", "Conversion", "check_directory", "convert_checkpoint", "parse_size"]
