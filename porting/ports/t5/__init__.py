"""T5: Mesh TensorFlow checkpoints into a PyTorch T5. See README.md in this folder.

config.py      the configuration, in transformers' terms
from_gin.py    ... from Mesh's operative_config.gin, and back
infer.py       ... from variables and shapes alone
presets.py     ... of the published sizes, by name
rules.py       variable names -> state-dict keys
model.py       the PyTorch model, made of layers.py and attention.py
cache.py, generation.py, decode.py   decoding: the port, and the original
taps.py        where the model is listened to
reference.py   the original, built, tapped and run in the reference process
port.py        all of it, as the core sees it
"""

from porting.ports.t5.port import PORT

__all__ = ["PORT"]
