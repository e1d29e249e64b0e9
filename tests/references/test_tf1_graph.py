"""TensorFlow 1 graphs as originals: a small one, run by TensorFlow, beside the same formulas in NumPy."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from porting.checkpoint import open_checkpoint
from porting.errors import ReferenceRunError
from porting.gradients.traces import gradients_of
from porting.references.process import ReferenceProcess, run_in_process
from tests.references.running import IDS, Runner, numerical_gradient

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="not installed: tensorflow"
)
SMALL = "tests.references.small_tf1"


def make_checkpoint(folder: Path, **edits: object) -> Path:
    run_in_process(f"{SMALL}:make_checkpoint", {"output": str(folder / "model.ckpt"), **edits})
    return folder / "model.ckpt"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("tf1")
    checkpoint = make_checkpoint(folder)
    with ReferenceProcess(f"{SMALL}:run") as process:
        yield Runner(process, checkpoint, folder)


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    return {
        name: tensor.read().astype(np.float64) for name, tensor in open_checkpoint(checkpoint).tensors.items()
    }


def forward(ids: np.ndarray, held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    embedded = held["small/table"][ids]
    centred = embedded - embedded.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    normed = normed * held["small/norm/gamma"] + held["small/norm/beta"]
    logits = normed @ held["small/out/kernel"] + held["small/out/bias"]
    return {"embedded": embedded, "norm": normed, "logits": logits, "loss": (logits**2).mean()}


def test_named_tensors_with_the_checkpoints_weights_in_the_order_of_computation(runner: Runner) -> None:
    trace = runner.run(IDS)
    assert trace.names() == ["ids", "embedded", "norm", "logits", "loss"]
    expected = forward(IDS, weights(runner.checkpoint))
    for name, values in expected.items():
        np.testing.assert_allclose(trace[name], values, rtol=1e-5, atol=1e-5)
    entries = {tensor.name: tensor for tensor in trace.tensors}
    assert entries["logits"].dims == ("batch", "length", "classes")
    assert trace["logits"].shape == (2, 4, 3)
    assert entries["embedded"].original_name == "small/embedded/Identity:0"
    assert entries["norm"].hidden_below == -1e4
    assert trace.metadata["deterministic"] is True
    assert trace.metadata["implementation"] == "a small graph"
    assert set(trace.metadata["versions"]) >= {"tensorflow", "numpy", "python"}
    assert trace.metadata["absent"] == ["pooled"]
    assert trace.metadata["port"] == "small"


def test_the_process_answers_other_shapes_and_other_ids(runner: Runner) -> None:
    for ids in (IDS[:1, :2], IDS + 0, IDS[:, ::-1].copy()):
        logits = forward(ids, weights(runner.checkpoint))["logits"]
        np.testing.assert_allclose(runner.run(ids)["logits"], logits, rtol=1e-5, atol=1e-5)


def test_gradients_of_taps_and_variables_in_backward_order(runner: Runner) -> None:
    gradients = gradients_of(runner.run(IDS, backward=True))
    assert gradients.names() == [
        "loss",
        "logits",
        "small/out/bias",
        "small/out/kernel",
        "norm",
        "small/norm/beta",
        "small/norm/gamma",
        "embedded",
        "small/table",
        "small/unused",
        "ids",
    ]
    held = weights(runner.checkpoint)
    variables = gradients.metadata["variables"]
    assert set(variables) == set(held)
    for name in variables:

        def loss(array: np.ndarray, name: str = name) -> float:
            return float(forward(IDS, {**held, name: array})["loss"])

        np.testing.assert_allclose(
            gradients[name], numerical_gradient(loss, held[name].copy()), rtol=1e-3, atol=1e-5
        )
    assert sorted(gradients.metadata["without_gradient"]) == ["ids", "small/unused"]
    assert gradients["logits"].shape == (2, 4, 3)
    assert gradients.metadata["deterministic"] is True


def test_wrong_names_are_all_said_with_the_nearest_ones(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError) as error:
        runner.run(IDS, {"wrong": "x"})
    said = str(error.value)
    assert "2 taps do not fit" in said
    assert "logits: expected a tensor of the graph named small/out/BiasAddx:0" in said
    assert "nearest: small/out/BiasAdd:0" in said
    assert "small/embeddedx/Identity:0, found none; nearest: small/embedded/Identity:0" in said


def test_without_taps_what_there_is_is_listed(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError) as error:
        runner.run(IDS, {"no_taps": True})
    said = str(error.value)
    assert "small/norm/batchnorm/add_1:0 (2, 4, 5) (AddV2)" in said
    assert "small/out/BiasAdd:0 (8, 3) (BiasAdd)" in said
    assert "kernel" not in said
    assert "Return BuiltGraph([OriginalTap(...), ...])" in said


def test_a_model_fn_is_called_as_the_estimator_did(runner: Runner) -> None:
    """And flags are read, which nobody parsed."""
    logits = forward(IDS, weights(runner.checkpoint))["logits"]
    trace = runner.run(IDS, {"model_fn": True})
    np.testing.assert_allclose(trace["logits"], logits, rtol=1e-5, atol=1e-5)


def test_axes_that_do_not_fit_are_said(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError, match=r"logits: expected dims that fit small/out/BiasAdd:0, found"):
        runner.run(IDS, {"dims": "batch length classes"})


def test_gradients_without_a_loss_are_refused(runner: Runner) -> None:
    assert runner.run(IDS, {"no_loss": True}).names()
    with pytest.raises(ReferenceRunError, match=r"built without a loss"):
        runner.run(IDS, {"no_loss": True}, backward=True)


def test_an_original_that_does_not_repeat_itself_says_so(runner: Runner) -> None:
    assert runner.run(IDS, {"dropout": True}).metadata["deterministic"] is False


def test_what_is_gone_from_tensorflow_says_so_where_it_is_called(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError, match=r"calls tensorflow\.contrib\.rnn\.LSTMCell"):
        runner.run(IDS, {"calls": True})


def test_a_checkpoint_of_another_model_is_refused_with_all_that_is_wrong(
    runner: Runner, tmp_path: Path
) -> None:
    wrong = make_checkpoint(
        tmp_path, without=["small/out/bias"], reshaped=["small/table", "small/out/kernel"]
    )
    with pytest.raises(ReferenceRunError) as error:
        Runner(runner.process, wrong, tmp_path).run(IDS)
    said = str(error.value)
    assert "3 of the original's variables are missing, of another shape or left over" in said
    assert "small/out/bias: expected shape [3], found none" in said
    assert "small/table: expected shape [11, 5], found [12, 5]" in said
    assert "small/out/kernel: expected shape [5, 3], found [6, 3]" in said


def test_a_checkpoint_that_tensorflow_cannot_read_is_said(runner: Runner, tmp_path: Path) -> None:
    for file in runner.checkpoint.parent.glob("model.ckpt.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ReferenceRunError, match=r"TensorFlow cannot read .*damaged or incomplete") as error:
        Runner(runner.process, tmp_path / "model.ckpt", tmp_path).run(IDS)
    assert "Copy" in error.value.remedy
