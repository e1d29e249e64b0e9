"""Bring up the real Mesh TensorFlow on a current TensorFlow, build in it, and evaluate its tensors.

Imported only inside the reference process (see `process.py`): it loads TensorFlow. The package from the
index is used as it is; what a current TensorFlow no longer offers is given back from outside, at import
time, in `import_mesh_tensorflow`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from porting.references.serve import not_installed
from porting.references.tf1_compat import restore_estimator
from porting.references.tf_session import Weights, import_graph_tensorflow


@dataclass(frozen=True)
class Mesh:
    """The modules of the original that a port builds from."""

    tf: Any  # tensorflow.compat.v1
    gin: Any
    mtf: Any  # mesh_tensorflow
    transformer: Any  # mesh_tensorflow.transformer.transformer
    transformer_layers: Any
    attention: Any
    vocab_embeddings: Any

    def versions(self) -> dict[str, str]:
        """Versions of what the verdict rests on."""
        return {
            "mesh-tensorflow": importlib.metadata.version("mesh-tensorflow"),
            "tensorflow": self.tf.__version__,
            "gin-config": importlib.metadata.version("gin-config"),
            "python": sys.version.split()[0],
        }


def import_mesh_tensorflow() -> Mesh:
    """Import Mesh TensorFlow 0.1.21 on TensorFlow 2.16 or later.

    Raises:
        ReferenceRunError: the `mesh` extra is not installed.
    """
    tf = import_graph_tensorflow("mesh")
    restore_estimator(tf)
    _restore_tensor_conversion()
    try:
        import gin
        import mesh_tensorflow as mtf
    except ImportError as error:
        raise not_installed(error, "mesh") from error
    _skip_package_init("mesh_tensorflow.transformer", Path(mtf.__file__).parent / "transformer")

    def module(name: str) -> Any:
        return importlib.import_module(f"mesh_tensorflow.transformer.{name}")

    mesh = Mesh(
        tf=tf,
        gin=gin,
        mtf=mtf,
        attention=module("attention"),
        transformer=module("transformer"),
        transformer_layers=module("transformer_layers"),
        vocab_embeddings=module("vocab_embeddings"),
    )
    # moe.py reads its sibling as an attribute of the package whose __init__ is not run.
    module("moe")
    return mesh


def _restore_tensor_conversion() -> None:
    """`ops.register_tensor_conversion_function` moved to a module of its own."""
    from tensorflow.python.framework import ops, tensor_conversion_registry

    name = "register_tensor_conversion_function"
    if not hasattr(ops, name):
        setattr(ops, name, getattr(tensor_conversion_registry, name))


def _skip_package_init(name: str, path: Path) -> None:
    """Let submodules of a package be imported without its __init__, which wants tensorflow_datasets."""
    if name in sys.modules:
        return
    package = types.ModuleType(name)
    package.__path__ = [str(path)]
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, package)


_IMPORT_LINE = re.compile(r"^\s*(import|from)\s.*$", re.MULTILINE)


def parse_gin(mesh: Mesh, text: str) -> None:
    """Read an `operative_config.gin` into the original's gin registry, its import lines left out.

    Bindings of what is not loaded here (the training loop, datasets) are skipped, as they do not shape
    the model.
    """
    mesh.gin.clear_config()
    mesh.gin.parse_config(_IMPORT_LINE.sub("", text), skip_unknown=True)


@dataclass
class Record:
    """One tensor of the original that was tapped while its graph was built."""

    name: str
    original_name: str
    tensor: Any  # mtf.Tensor


@dataclass
class Recorder:
    """Collects tapped tensors in the order in which the original computes them."""

    records: list[Record] = field(default_factory=list)

    def add(self, name: str, original_name: str, tensor: Any) -> None:
        """Record `tensor` (mtf.Tensor) under the port's `name`."""
        self.records.append(Record(name, original_name, tensor))


@contextmanager
def replaced(
    owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Replace the function `owner.name` by `wrap(function)` while the block runs."""
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@dataclass(frozen=True)
class Feed:
    """Token ids or sequence ids that go in. `values`: int32 [batch, length]."""

    name: str
    values: np.ndarray
    dims: Sequence[Any]  # mtf.Dimension


def import_feed(mesh: Mesh, mtf_mesh: Any, feed: Feed) -> Any:
    """An mtf.Tensor of the given ids, as a constant of the graph."""
    constant = mesh.tf.constant(np.asarray(feed.values, np.int32), name=feed.name)
    return mesh.mtf.import_tf_tensor(mtf_mesh, constant, shape=mesh.mtf.Shape(list(feed.dims)))


@dataclass
class Placeholders:
    """In place of `import_feed`: other ids of the same shapes can be fed into the graph at each run."""

    tensors: dict[str, Any] = field(default_factory=dict)  # by feed name

    def __call__(self, mesh: Mesh, mtf_mesh: Any, feed: Feed) -> Any:
        """An mtf.Tensor of the feed's shape."""
        placeholder = mesh.tf.placeholder(mesh.tf.int32, feed.values.shape, name=feed.name)
        self.tensors[feed.name] = placeholder
        return mesh.mtf.import_tf_tensor(mtf_mesh, placeholder, shape=mesh.mtf.Shape(list(feed.dims)))


class Session:
    """A lowered Mesh graph on one CPU device, with a checkpoint's weights in its variables.

    Example:
        with Session(mesh, graph, mtf_mesh, Path("model.ckpt-1000")) as session:
            logits, = session.run([logits_tensor])
    """

    def __init__(self, mesh: Mesh, graph: Any, mtf_mesh: Any, checkpoint: Path | Weights) -> None:
        implementation = mesh.mtf.placement_mesh_impl.PlacementMeshImpl(shape=[], layout={}, devices=[""])
        self._lowering = mesh.mtf.Lowering(graph, {mtf_mesh: implementation})
        self._weights = checkpoint if isinstance(checkpoint, Weights) else Weights(mesh.tf, checkpoint)
        self._session = self._weights.session
        self._exported: dict[Any, Any] = {}
        self._weights.restore()
        self._session.run(self._lowering.copy_masters_to_slices())

    def export(self, tensor: Any) -> Any:
        """The tf.Tensor of an mtf.Tensor."""
        if tensor not in self._exported:
            self._exported[tensor] = self._lowering.export_to_tf_tensor(tensor)
        return self._exported[tensor]

    def run(self, tensors: Sequence[Any], feeds: Mapping[Any, np.ndarray] | None = None) -> list[np.ndarray]:
        """Values of mtf tensors, computed in one run, in each tensor's own dimension order.

        Args:
            tensors: mtf.Tensor each.
            feeds: values of placeholders (tf.Tensor).
        """
        fetched = [self.export(t) for t in tensors]
        values: list[np.ndarray] = self._session.run(fetched, feed_dict=feeds)
        return values

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


def dimension_names(tensor: Any) -> tuple[str, ...]:
    """Names of an mtf.Tensor's dimensions, in its order."""
    return tuple(dim.name for dim in tensor.shape.dims)
