"""A model written back for T5X, and for Mesh: every way there and back is the same, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from porting.errors import ConfigError, MappingError
from porting.gin_file import read_gin
from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.config import T5Config
from porting.ports.t5.naming import read_config
from porting.ports.t5.port import PORT
from porting.ports.t5.spelling import join, spelling
from porting.ports.t5.switch_config import SwitchConfig
from porting.ports.t5.variables import variables as mesh_variables
from porting.source import plan_original
from tests.ports.t5.family import FAMILY
from tests.ports.t5.t5x.checkpoints import (
    Arrays,
    converted,
    in_memory,
    made,
    random_arrays,
    recorded,
    scalable_shapes,
    t5_shapes,
    written_back,
)
from tests.ports.t5.t5x.test_infer import V1_1

FORMS = {
    "1.1": (t5_shapes(), "t5x"),
    "1.0": (t5_shapes(gated=False, tied=True), "t5x"),
    "scalable": (scalable_shapes(scanned=False), "t5x"),
    "scanned": (scalable_shapes(scanned=True), "t5x-scanned"),
}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert {*found} == {*expected}
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_t5x_to_pytorch_to_t5x(form: str, remembers: bool) -> None:
    shapes, to = FORMS[form]
    arrays = random_arrays(shapes)
    source, _, state = converted(in_memory(arrays))
    _, back = written_back(state, source.resolved.config, to, shapes if remembers else None)
    assert_same(back, arrays)


@pytest.mark.parametrize(("name", "to"), [("t5x/v1_1", "t5x"), ("t5x/scanned", "t5x-scanned")])
def test_the_originals_own_weights_come_back(name: str, to: str) -> None:
    original = recorded(name)
    source, _, state = converted(original.checkpoint)
    assert_same(written_back(state, source.resolved.config, to)[1], original.arrays)


@pytest.mark.parametrize("form", FORMS)
def test_names_of_another_original_are_not_written_again(form: str) -> None:
    """T5X -> PyTorch -> Mesh -> PyTorch, and Mesh -> PyTorch -> T5X -> PyTorch."""
    shapes, to = FORMS[form]
    source, _, state = converted(in_memory(random_arrays(shapes)))
    _, mesh = written_back(state, source.resolved.config, "mesh", shapes)
    assert {*mesh} == {*mesh_variables(source.resolved.config)}
    resolved = converted(in_memory(mesh))
    assert_same(resolved[2], state)
    remembered = {name: array.shape for name, array in mesh.items()}
    _, there = written_back(resolved[2], source.resolved.config, to, remembered)
    assert {*there} == {*shapes}
    assert_same(converted(in_memory(there))[2], state)


@pytest.mark.parametrize("form", ["1.1", "scalable"])
def test_layers_are_scanned_for_whoever_asks(form: str) -> None:
    shapes, _ = FORMS[form]
    source, _, state = converted(in_memory(random_arrays(shapes)))
    _, back = written_back(state, source.resolved.config, "t5x-scanned", shapes)
    assert {name: array.shape for name, array in back.items()} == scalable_shapes(scanned=True)


def test_a_shared_table_is_in_every_layer_of_a_scanned_checkpoint() -> None:
    source, _, state = converted(in_memory(random_arrays(t5_shapes())))
    _, back = written_back(state, source.resolved.config, "t5x-scanned")
    own, _, again = converted(in_memory(back))
    table = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    for i in range(3):
        np.testing.assert_array_equal(again[table.format(i)], state[table.format(0)])
    ids = torch.arange(2, 42).reshape(2, 20) % 64
    logits = []
    for config, values in ((source.resolved.config, state), (own.resolved.config, again)):
        model = PORT.build(config).eval()
        arrays = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}
        model.load_state_dict(arrays, strict=False)
        with torch.no_grad():
            logits.append(model(input_ids=ids, labels=ids).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("form", FORMS)
def test_the_gin_says_what_was_written(form: str, tmp_path: Path) -> None:
    shapes, to = FORMS[form]
    source, _, state = converted(in_memory(random_arrays(shapes)))
    back, _ = written_back(state, source.resolved.config, to)
    path = tmp_path / "config.gin"
    path.write_text(back.files["config.gin"])
    read = read_config(path, shapes)
    assert read.assumed == ()
    assert spelling(read.config) == spelling(source.resolved.config.architecture)
    network = "t5" if form.startswith("1.") else "scalable_t5"
    assert f"from t5x.examples.{network} import network" in path.read_text()
    assert (back.layout, back.more["state/step"].dtype) == ("t5x", np.int32)


def long_shapes(*, side: bool) -> dict[str, Shape]:
    """Variables of a LongT5: a T5 1.1's, and those of transient-global attention."""
    found = t5_shapes()
    if side:
        found["target/encoder/side_relpos_bias/rel_embedding"] = (3, 32)
        found |= {f"target/encoder/layers_{i}/attention/T5LayerNorm_0/scale": (20,) for i in range(3)}
    return found


@pytest.mark.parametrize("kind", ["local", "transient-global"])
def test_a_longt5_goes_to_t5x_and_back_with_a_gin_that_says_it(kind: str, tmp_path: Path) -> None:
    arrays = random_arrays(long_shapes(side=kind != "local"))
    answers = tmp_path / "answers.json"
    answers.write_text(f'{{"encoder_attention_type": "{kind}", "local_radius": 5, "global_block_size": 4}}')
    config = read_config(answers, {name: array.shape for name, array in arrays.items()}).config
    checkpoint = in_memory(arrays)
    state = made(plan_original(PORT, config, checkpoint), checkpoint)
    back, found = written_back(state, config, "t5x")
    assert_same(found, arrays)
    path = tmp_path / "config.gin"
    path.write_text(back.files["config.gin"])
    read = read_config(path, {name: array.shape for name, array in arrays.items()})
    assert read.assumed == ()
    assert spelling(read.config) == spelling(config.architecture)
    # flaxformer and T5X's partitioner have no default for these.
    gin = read_gin(path)
    modules = ("RelativePositionBiases", "RelativePositionBiasesGeneral", "Embed", "LongEncoder", "Decoder")
    assert {gin.get("", module, "dtype") for module in modules} == {"float32"}
    assert gin.get("output_logits", "DenseGeneral", "kernel_axis_names") == ["embed", "vocab"]
    with pytest.raises(ConfigError, match="where layers are scanned") as caught:
        written_back(state, config, "t5x-scanned")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("proj", ["relu", "gated-gelu", "gated-silu", "gated-relu"])
def test_activations_are_called_as_flax_calls_them(proj: str, tmp_path: Path) -> None:
    config = replace(V1_1, feed_forward_proj=proj)
    shapes = PORT.originals["t5x"].variables(config)
    text = PORT.originals["t5x"].files(config, [*shapes])["config.gin"]
    (tmp_path / "config.gin").write_text(text)
    assert spelling(read_config(tmp_path / "config.gin", shapes).config) == config
    assert ("silu" in text) == ("silu" in proj)
    assert "swish" not in text


REFUSED: dict[str, tuple[object, str]] = {
    "epsilon": (replace(V1_1, layer_norm_epsilon=1e-5), "layer_norm_epsilon"),
    "buckets": (replace(V1_1, relative_attention_num_buckets=16), "relative_attention_num_buckets"),
    "distance": (replace(V1_1, relative_attention_max_distance=64), "relative_attention_max_distance"),
    "another width in the decoder": (join(V1_1, replace(V1_1, d_ff=12), shared_embedding=True), "d_ff"),
    "two embeddings": (join(V1_1, V1_1), "shared_embedding"),
    "experts": (
        SwitchConfig(
            64, 20, 8, 36, 2, 2, 3, num_experts=2, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1
        ),
        "encoder.layers",
    ),
}


@pytest.mark.parametrize("to", ["t5x", "t5x-scanned"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_t5x_cannot_build_is_refused(name: str, to: str) -> None:
    config, key = REFUSED[name]
    form = PORT.originals[to]
    with pytest.raises(ConfigError, match="T5X cannot build this model") as caught:
        form.variables(config)
    assert any(key in problem.key for problem in caught.value.problems)
    with pytest.raises(ConfigError):
        form.files(config, [])


@pytest.mark.parametrize("name", FAMILY)
def test_every_model_of_the_family_is_written_right_or_refused(name: str) -> None:
    """No variant of Mesh's is written as something that T5X would compute otherwise."""
    architecture = FAMILY[name].architecture
    try:
        shapes = PORT.originals["t5x"].variables(architecture)
    except ConfigError as error:
        assert error.problems
        return
    source, _, state = converted(in_memory(random_arrays(shapes)))
    assert {*state} == {*PORT.parameter_shapes(architecture)}  # type: ignore[misc]
    assert plain(source.resolved.config) == plain(architecture)


def plain(architecture: Architecture) -> tuple[object, ...]:
    """What T5X has settings for, and the plain values of what it has none for."""
    specs = [
        replace(spec, combine_dims=True) if isinstance(spec, AttentionSpec) else spec
        for stack in architecture.stacks.values()
        for place in stack.places
        for spec in (place.spec,)
    ]
    return (*specs, architecture.tie_word_embeddings, architecture.scale_embedding)


def test_a_model_that_lost_a_parameter_is_refused() -> None:
    source, _, state = converted(in_memory(random_arrays(t5_shapes())))
    assert isinstance(spelling(source.resolved.config), T5Config)
    del state["encoder.block.2.layer.0.SelfAttention.q.weight"]
    with pytest.raises(MappingError):
        written_back(state, source.resolved.config, "t5x-scanned")
