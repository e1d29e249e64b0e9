"""T5 and LongT5: checkpoints of Mesh TensorFlow and T5X into PyTorch. See README.md in this folder.

layer_specs.py (with attention_specs.py, spec_problems.py), architecture.py   what a layer is, and a model
config.py (base_config.py, switch_config.py, long_config.py), spelling.py   ... as transformers spells it
naming.py      whose names a checkpoint has, Mesh's or T5X's; t5x/ has T5X's, file by file as here
from_gin.py    ... from Mesh's operative_config.gin; to_gin.py: and back
infer.py       ... from variables and shapes alone, with answers.py to what they do not tell
proportion.py  configs that no checkpoint of their size can be of
presets.py     ... of the published sizes, by name
scopes.py, rules.py   variable names -> state-dict keys
parameters.py, variables.py   names and shapes of the model's parameters, of Mesh's variables
state_dict.py  what other programs' model directories hold besides parameters
original_format.py   a model back into Mesh's checkpoint; located.py: where it had its layers
tokenizer_files.py   SentencePiece's model (sentencepiece_model.py, charsmap.py) -> tokenizer.json
               (tokenizer_json.py), held against each other (tokenizer_check.py); tokenizer.py: the step's
model.py, stack.py   the PyTorch model, made of attention.py, local_attention.py, layers.py, mixture.py, ...
cache.py, generation.py, decode.py   decoding: the port, and the original
taps.py        where the model is listened to; tap_buckets.py: by relative position
reference.py   the original, built, tapped (reference_taps.py) and run in the reference process
port.py        all of it, as the core sees it
"""

from porting.ports.t5.port import PORT

__all__ = ["PORT"]
