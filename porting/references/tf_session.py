"""TensorFlow as a reference wants it: quiet, repeatable, with a checkpoint's weights in its variables.

Imported only inside the reference process; what `mesh_tf` and `tf1_graph` have in common.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from porting.errors import ReferenceRunError
from porting.references.fit import require_fit
from porting.references.serve import not_installed


def import_tensorflow(extra: str) -> Any:
    """TensorFlow, logging errors only, with kernels that round alike in every run.

    Args:
        extra: of this package, which installs it.

    Raises:
        ReferenceRunError: it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The oneDNN kernels may round differently from run to run; a reference must not.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow
    except ImportError as error:
        raise not_installed(error, extra) from error
    tensorflow.compat.v1.logging.set_verbosity(tensorflow.compat.v1.logging.ERROR)
    return tensorflow


def import_graph_tensorflow(extra: str) -> Any:
    """`tensorflow.compat.v1`, with TensorFlow 2's behaviour turned off for the whole process."""
    tf = import_tensorflow(extra).compat.v1
    tf.disable_v2_behavior()
    return tf


def plain_execution(tf: Any) -> Any:
    """A session's config that computes the graph as it was built, whatever is fetched from it.

    TensorFlow's graph rewriting fuses operations that nobody fetches, which rounds differently: with it, a
    tapped run and an untapped one would not agree to the last bit.
    """
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = -1  # L0
    return config


class Weights:
    """A checkpoint's weights in the variables of the current tf.Graph, and the session that holds them.

    What is built into the same tf.Graph later shares variables within `variable_scope("", AUTO_REUSE)`.
    """

    def __init__(self, tf: Any, checkpoint: Path) -> None:
        """Nothing is read yet. `tf` is tensorflow.compat.v1, `checkpoint` a prefix."""
        self._tf, self._checkpoint = tf, checkpoint
        self._restored: set[str] = set()
        self.session = tf.Session(config=plain_execution(tf))

    def restore(self) -> None:
        """Assign every variable that is new from the checkpoint, read by TensorFlow itself.

        Weights are widened to the variable's dtype (float32, exact for bfloat16 and float16), so that the
        original computes in float32 whatever it was stored in.

        Raises:
            ReferenceRunError: variables that the checkpoint lacks, or holds in another shape, all of them;
                or it cannot be read.
        """
        variables = [v for v in self._tf.global_variables() if v.op.name not in self._restored]
        if not variables:
            return
        reader = self._open()
        require_fit({v.op.name: v.shape.as_list() for v in variables}, reader.get_variable_to_shape_map())
        for variable in variables:
            dtype = variable.dtype.base_dtype.as_numpy_dtype
            variable.load(self._read(reader, variable.op.name).astype(dtype), self.session)
            self._restored.add(variable.op.name)

    def _open(self) -> Any:
        try:
            return self._tf.train.load_checkpoint(str(self._checkpoint))
        except (self._tf.errors.OpError, RuntimeError, ValueError) as error:
            raise self._damaged(str(self._checkpoint), error) from error

    def _read(self, reader: Any, name: str) -> np.ndarray:
        try:
            return np.asarray(reader.get_tensor(name))
        except (self._tf.errors.OpError, RuntimeError) as error:
            raise self._damaged(name, error) from error

    @staticmethod
    def _damaged(what: str, error: Exception) -> ReferenceRunError:
        return ReferenceRunError(
            f"TensorFlow cannot read {what}: the checkpoint is damaged or incomplete"
            f" ({str(error).splitlines()[0]}).",
            remedy="Copy the checkpoint's files again.",
        )
