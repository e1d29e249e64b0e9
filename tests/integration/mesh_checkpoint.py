"""Make a checkpoint with the original: Mesh TensorFlow builds the model, its random variables are saved.

    ReferenceProcess("tests.integration.mesh_checkpoint:make").call(spec)

spec: {"output": DIR, "files": [published gin files of the t5 package], "overrides": [gin lines],
"kind": "bitransformer" | "lm" | "aligned", "scope": of a single stack, "vocab_size": n,
"target_vocab_size": n (if another), "seed": n, "dtype": "float32" | "bfloat16" | "float16", "slots": bool}
and, to make it wrong: "without", "nan" and "huge" (names), "extra" and "reshaped" (name -> shape). Written:
model.ckpt-1000.*, `checkpoint`, and the `operative_config.gin` that gin itself writes.

Every variable is random: drawn by Mesh's own initializers, norm scales and biases moved off their constants.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs, random_inputs
from porting.ports.t5 import reference
from porting.references.mesh_tf import Mesh, import_mesh_tensorflow


def gin_folders() -> list[Path]:
    """Where the published gin files lie: Mesh's own defaults, and the t5 package's models."""
    import importlib.util

    folders = []
    for package, folder in (("mesh_tensorflow", "transformer/gin"), ("t5", "models/gin")):
        spec = importlib.util.find_spec(package)
        assert spec and spec.submodule_search_locations
        folders.append(Path(spec.submodule_search_locations[0]) / folder)
    return folders


def read_published(name: str) -> str:
    """A published gin file with its includes in place and its imports left out."""
    path = next(folder / name for folder in gin_folders() if (folder / name).exists())
    text = re.sub(r"^import .*$", "", path.read_text(), flags=re.MULTILINE)
    return re.sub(r"^include ['\"](.+)['\"]", lambda m: read_published(m[1]), text, flags=re.MULTILINE)


def randomised(initial: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The original's own initial value where that is random, else noise around it: scales, biases."""
    if np.ptp(initial) > 0:
        return initial
    return initial + 0.3 * generator.standard_normal(initial.shape)


def initial_values(mesh: Mesh, graph: Any, mtf_mesh: Any) -> dict[str, np.ndarray]:
    """What Mesh's own initializers draw, by variable name."""
    implementation = mesh.mtf.placement_mesh_impl.PlacementMeshImpl(shape=[], layout={}, devices=[""])
    mesh.mtf.Lowering(graph, {mtf_mesh: implementation})
    with mesh.tf.Session() as session:
        session.run(mesh.tf.global_variables_initializer())
        return {v.op.name: session.run(v) for v in mesh.tf.global_variables()}


def make(spec: dict) -> None:
    mesh = import_mesh_tensorflow()
    mesh.gin.clear_config()
    with mesh.tf.Graph().as_default():
        write(mesh, spec)


def write(mesh: Mesh, spec: dict) -> None:
    tf, mtf = mesh.tf, mesh.mtf
    tf.set_random_seed(spec["seed"])
    text = "\n".join([*(read_published(name) for name in spec["files"]), *spec["overrides"]])
    mesh.gin.parse_config(text, skip_unknown=True)
    target_vocab = spec.get("target_vocab_size", spec["vocab_size"])
    model = reference.build(mesh, spec["kind"], spec["vocab_size"], target_vocab, spec["scope"])
    graph = mtf.Graph()
    mtf_mesh = mtf.Mesh(graph, "mesh")
    inputs: Inputs = random_inputs(spec["vocab_size"], 2, 8, 0, target_vocab_size=target_vocab)
    if spec["kind"] != "bitransformer":
        inputs = inputs.having(targets=inputs["inputs"])
    reference.call(mesh, mtf_mesh, model, inputs)
    initial = initial_values(mesh, graph, mtf_mesh)
    output = Path(spec["output"])
    output.mkdir(parents=True, exist_ok=True)
    # As the training script configures it, which is not run here.
    kind = f"\nutils.run.model_type = {spec['kind']!r}\n"
    (output / "operative_config.gin").write_text(mesh.gin.operative_config_str() + kind)

    generator = np.random.default_rng(spec["seed"])
    dtype = tf.as_dtype(spec["dtype"])
    with tf.Graph().as_default(), tf.Session() as session:
        variables, values = {}, {}
        for name, value in initial.items():
            values[name] = randomised(value, generator).astype(dtype.as_numpy_dtype)
            if spec["slots"]:
                values[name + "_slot_v"] = np.abs(generator.standard_normal(value.shape)).astype(np.float32)
        values["global_step"] = np.int64(1000)
        for name in spec.get("without", ()):
            del values[name]
        for name in spec.get("nan", ()):
            values[name].flat[0] = np.nan
        for name in spec.get("huge", ()):
            values[name] *= 1e6
        for name, shape in {**spec.get("extra", {}), **spec.get("reshaped", {})}.items():
            values[name] = generator.standard_normal(shape).astype(np.float32)
        for name, value in values.items():
            variables[name] = tf.Variable(tf.zeros(value.shape, value.dtype), name=name)
        for name, variable in variables.items():
            variable.load(values[name], session)
        saver = tf.train.Saver(variables)
        saver.save(session, str(output / "model.ckpt"), global_step=1000, write_meta_graph=False)
