"""What model code written for TensorFlow 1 finds missing in a current TensorFlow, given back from outside.

Imported only inside the reference process. `import_tf1()` gives the TensorFlow that such code is built with:
`tensorflow.compat.v1` with TensorFlow 2's behaviour off, and these names given back in it:

    tf.contrib.layers.layer_norm   as it was (variables beta and gamma, epsilon 1e-12)
    tf.contrib.*, any other name   can be imported; it says what is gone when it is called
    tf.estimator                   ModeKeys, SessionRunHook, CheckpointSaverListener; EstimatorSpec and
                                   tpu.TPUEstimatorSpec, so that an original's own model_fn can be called:
                                   `model_fn(features, labels, "eval", params).loss`
    absl.flags                     parsed already, each with its default
    tf.layers                      (dense, ...) from the package tf-keras, TensorFlow's own code of it

Old packages say one of three things, and each works after `import_tf1()`:

    import tensorflow.compat.v1 as tf               bert-tensorflow
    from tensorflow.contrib import layers           bert-tensorflow
    import tensorflow as tf                         albert-tensorflow, xlnet-tensorflow, which mean
                                                    TensorFlow 1: import them in `with tensorflow_is_v1():`
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any

from porting.errors import ReferenceRunError
from porting.references.tf_session import import_graph_tensorflow

_CONTRIB = "tensorflow.contrib"


def import_tf1(extra: str = "tf1") -> Any:
    """`tensorflow.compat.v1`, TensorFlow 2's behaviour off, with the names above given back.

    Args:
        extra: of this package, which installs TensorFlow.

    Raises:
        ReferenceRunError: TensorFlow is not installed.
    """
    if importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    tf = import_graph_tensorflow(extra)
    restore_estimator(tf)
    _restore_contrib(tf)
    # Modules of old packages read the flags that they define, which their own main would have parsed.
    tf.flags.FLAGS.mark_as_parsed()
    if importlib.util.find_spec("tf_keras"):
        _ = tf.layers.dense  # loads it, while `tensorflow` is what it expects
    else:
        tf.layers = _Gone(
            "tf.layers", remedy="Install TensorFlow's own code of it: pip install --no-deps tf-keras"
        )
    return tf


@contextmanager
def tensorflow_is_v1() -> Iterator[None]:
    """While the block runs, `import tensorflow` gives TensorFlow 1: for old code that is imported in it."""
    tf = import_tf1()
    current = sys.modules["tensorflow"]
    sys.modules["tensorflow"] = tf
    try:
        yield
    finally:
        sys.modules["tensorflow"] = current


def restore_estimator(tf: Any) -> None:
    """`tensorflow.compat.v1.estimator` went with TensorFlow 2.16; models need little of it.

    Args:
        tf: tensorflow.compat.v1
    """
    if "tensorflow.compat.v1.estimator" in sys.modules or hasattr(tf, "estimator"):
        return
    estimator = types.ModuleType("tensorflow.compat.v1.estimator")
    estimator.__dict__.update(
        ModeKeys=types.SimpleNamespace(TRAIN="train", EVAL="eval", PREDICT="infer"),
        SessionRunHook=tf.train.SessionRunHook,
        CheckpointSaverListener=tf.train.CheckpointSaverListener,
        EstimatorSpec=_Spec,
        tpu=types.SimpleNamespace(TPUEstimatorSpec=_Spec),
    )
    tf.estimator = estimator
    sys.modules[estimator.__name__] = estimator


class _Spec:
    """What a model_fn returns: the tensors it was given by name; None for those it was not."""

    def __init__(self, mode: Any, **given: Any) -> None:
        self.mode = mode
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _restore_contrib(tf: Any) -> None:
    if _CONTRIB in sys.modules:
        return
    contrib, layers = _GoneModule(_CONTRIB), _GoneModule(f"{_CONTRIB}.layers")
    layers.__dict__["layer_norm"] = _layer_norm(tf)
    contrib.__dict__["layers"] = layers
    sys.modules.update({module.__name__: module for module in (contrib, layers)})
    sys.meta_path.append(_GoneFinder())
    tf.contrib = contrib
    sys.modules["tensorflow"].contrib = contrib  # type: ignore[attr-defined]


def _layer_norm(tf: Any) -> Any:
    """`tf.contrib.layers.layer_norm`: the same variables, operations and names.

    Source: `layer_norm` in tensorflow/contrib/layers/python/layers/layers.py of TensorFlow 1.15.
    """

    def layer_norm(
        inputs: Any,
        center: bool = True,
        scale: bool = True,
        activation_fn: Any = None,
        reuse: Any = None,
        variables_collections: Any = None,
        outputs_collections: Any = None,
        trainable: bool = True,
        begin_norm_axis: int = 1,
        begin_params_axis: int = -1,
        scope: Any = None,
    ) -> Any:
        if variables_collections or outputs_collections:
            raise ReferenceRunError("layer_norm's collections are not given back here (tf1_compat.py).")
        with tf.variable_scope(scope, "LayerNorm", [inputs], reuse=reuse):
            inputs = tf.convert_to_tensor(inputs)
            shape, dtype = inputs.shape, inputs.dtype.base_dtype

            def parameter(name: str, initializer: Any) -> Any:
                return tf.get_variable(
                    name,
                    shape=shape[begin_params_axis:],
                    dtype=dtype,
                    initializer=initializer,
                    trainable=trainable,
                )

            beta = parameter("beta", tf.zeros_initializer()) if center else None
            gamma = parameter("gamma", tf.ones_initializer()) if scale else None
            axes = list(range(begin_norm_axis % shape.ndims, shape.ndims))
            mean, variance = tf.nn.moments(inputs, axes, keepdims=True)
            epsilon = 1e-3 if dtype == tf.float16 else 1e-12
            outputs = tf.nn.batch_normalization(
                inputs, mean, variance, offset=beta, scale=gamma, variance_epsilon=epsilon
            )
            outputs.set_shape(shape)
            return outputs if activation_fn is None else activation_fn(outputs)

    return layer_norm


class _Gone:
    """Stands for a name that is gone: it can be imported and looked into, and says so when called."""

    def __init__(self, name: str, remedy: str = "") -> None:
        self._name, self._remedy = name, remedy

    def __getattr__(self, name: str) -> _Gone:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Gone(f"{self._name}.{name}", self._remedy)

    def __call__(self, *_args: Any, **_named: Any) -> Any:
        raise ReferenceRunError(
            f"The original calls {self._name}, which a current TensorFlow lacks.",
            remedy=self._remedy
            or "Give it back before the original's code is imported, beside layer_norm in"
            " porting/references/tf1_compat.py, or build the model without it.",
        )


class _GoneModule(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package: what is imported from it is looked for

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Gone(f"{self.__name__}.{name}")


class _GoneFinder:
    """Finds every module below tensorflow.contrib, as one whose names are gone."""

    @staticmethod
    def find_spec(name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, _GoneFinder, is_package=True) if name.startswith(f"{_CONTRIB}.") else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> types.ModuleType:
        return _GoneModule(spec.name)

    @staticmethod
    def exec_module(_module: types.ModuleType) -> None:
        """Nothing to run."""
