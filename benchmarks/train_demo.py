"""Train the demonstration checkpoint with the original code: Mesh TensorFlow, Adafactor, a task it can learn.

    python -m benchmarks.train_demo --output demo/checkpoint

The task: put distinct letters in alphabetical order. The model is a T5 1.1 built from the published gin
files, shrunk, with attention that is not square. What is saved is all that such a training leaves: weights,
Adafactor's slots, the step, and the `operative_config.gin` that gin writes. Takes about a minute on
two cores; prints the share of unseen examples that Mesh's own greedy decoder then solves without a mistake.
The seed fixes the initial weights and the examples, not the last bits of TensorFlow's sums: two runs begin
alike, end with other weights, and solve the task alike.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from demo.task import LENGTH, VOCAB_SIZE, examples
from porting.ports.t5 import reference
from porting.references.mesh_tf import Mesh, import_mesh_tensorflow
from tests.integration.mesh_checkpoint import read_published

FILES = ("defaults.gin", "models/t5.1.1.small.gin")
# heads * d_kv != d_model, heads != buckets, uneven depths; factored slots from 32 rows on.
OVERRIDES = """
d_model = 40
d_ff = 96
d_kv = 16
num_heads = 4
encoder/make_layer_stack.num_layers = 2
decoder/make_layer_stack.num_layers = 3
AdafactorOptimizer.min_dim_size_to_factor = 32
"""


def main() -> None:
    arguments = parse_arguments()
    mesh = import_mesh_tensorflow()
    mesh.tf.set_random_seed(arguments.seed)
    mesh.gin.parse_config("\n".join([*(read_published(f) for f in FILES), OVERRIDES]), skip_unknown=True)
    output = Path(arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        train(mesh, arguments, Path(folder))
        output.mkdir(parents=True, exist_ok=True)
        for old in output.glob("model.ckpt-*"):
            old.unlink()
        for file in sorted(Path(folder).iterdir()):
            shutil.copyfile(file, output / file.name)


def train(mesh: Mesh, arguments: argparse.Namespace, output: Path) -> None:
    """Build the original's training graph, run it, and save what it leaves."""
    mtf, tf = mesh.mtf, mesh.tf
    model = reference.build(mesh, VOCAB_SIZE)
    graph = mtf.Graph()
    mtf_mesh = mtf.Mesh(graph, "mesh")
    dims = [mtf.Dimension("batch", arguments.batch), mtf.Dimension("length", LENGTH)]
    feeds = {name: tf.placeholder(tf.int32, [arguments.batch, LENGTH]) for name in ("inputs", "targets")}
    tensors = {name: mtf.import_tf_tensor(mtf_mesh, t, mtf.Shape(dims)) for name, t in feeds.items()}
    float32 = mtf.VariableDType(tf.float32, tf.float32, tf.float32)
    _, loss = model.call_simple(**tensors, compute_loss=True, mode="train", variable_dtype=float32)
    learning_rate = tf.placeholder(tf.float32, [])
    rate = mtf.import_tf_tensor(mtf_mesh, learning_rate, mtf.Shape([]))
    gradients = mtf.gradients([loss], [v.outputs[0] for v in graph.trainable_variables])
    optimizer = mtf.optimize.AdafactorOptimizer(learning_rate=rate)
    updates = optimizer.apply_grads(gradients, graph.trainable_variables)
    decoded = model.decode(tensors["inputs"], variable_dtype=float32)

    implementation = mtf.placement_mesh_impl.PlacementMeshImpl(shape=[], layout={}, devices=[""])
    lowering = mtf.Lowering(graph, {mtf_mesh: implementation})
    global_step = tf.train.get_or_create_global_step()
    step_op = tf.group([lowering.lowered_operation(op) for op in updates] + [tf.assign_add(global_step, 1)])
    loss_value = lowering.export_to_tf_tensor(loss)
    decoded_ids = lowering.export_to_tf_tensor(decoded)
    generator = np.random.default_rng(arguments.seed)

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(lowering.copy_masters_to_slices())

        def batch() -> dict[Any, np.ndarray]:
            inputs, targets = examples(arguments.batch, generator)
            return {feeds["inputs"]: inputs, feeds["targets"]: targets}

        for step in range(arguments.steps):
            warm = min(1.0, (step + 1) / 100)
            decay = max(0.0, 1.0 - step / arguments.steps)
            rates = {learning_rate: arguments.learning_rate * warm * decay}
            _, value = session.run([step_op, loss_value], {**batch(), **rates})
            if step % 250 == 0:
                print(f"step {step}: loss {value:.4f}", flush=True)
        right = total = 0
        for _ in range(arguments.test_batches):
            inputs, targets = examples(arguments.batch, generator, test=True)
            ids = session.run(decoded_ids, {feeds["inputs"]: inputs})
            right += sum(solved(row, target) for row, target in zip(ids, targets, strict=True))
            total += len(ids)
        print(f"solved by Mesh's greedy decoder: {right} of {total} unseen examples")
        session.run(lowering.copy_slices_to_masters())
        saver = tf.train.Saver(tf.global_variables(), save_relative_paths=True)
        saver.save(session, str(output / "model.ckpt"), global_step=arguments.steps, write_meta_graph=False)
    (output / "operative_config.gin").write_text(mesh.gin.operative_config_str())
    if right < 0.99 * total:
        sys.exit("Not learned: nothing to demonstrate. Train longer.")


def solved(ids: np.ndarray, target: np.ndarray) -> bool:
    """Whether the decoder said the target up to its end."""
    end = int(np.argmax(target == 1)) + 1
    return bool(np.array_equal(ids[:end], target[:end]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="demo/checkpoint", help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--test-batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
