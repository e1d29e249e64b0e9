"""Every other model that Mesh TensorFlow can publish: built by it, converted, compared at every tap."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
import transformers

from porting import Inputs, Trace, compare_outputs, convert_checkpoint, load_model
from porting.checkpoint import open_checkpoint
from porting.convert import Conversion
from porting.errors import ConfigError
from porting.original import Original
from porting.ports.t5.decode import decode_with_original
from porting.ports.t5.from_gin import config_from_gin
from porting.ports.t5.infer import infer_config
from porting.ports.t5.layer_specs import ACTIVATIONS
from porting.ports.t5.located import located
from porting.ports.t5.port import PORT
from porting.ports.t5.rules import is_weight
from porting.ports.t5.spelling import same_model
from porting.ports.t5.to_gin import gin_from_config
from porting.ports.t5.variables import variables
from porting.references.process import ReferenceProcess
from porting.source import variable_shapes
from tests.integration.conftest import SMALL, V1_0, V1_1, MakeCheckpoint

ATOL = 1e-4
SWITCH = "switch_transformers"
BERT = ("defaults.gin", "models/bi_bert_base.gin")
BI_V1 = ("defaults.gin", "models/bi_v1.gin")
N4W10 = ("defaults.gin", "models/t5.1.n4w10.base.gin")
TALKING = ("defaults.gin", "models/t5.1.th.base.gin")
# Published configs without macros for each stack, shrunk alike.
SIZES = ("d_model = 24", "d_ff = 40", "d_kv = 12", "num_heads = 3", "num_layers = 2")
HEADS = (
    "TalkingHeadsSelfAttention.key_heads_dims = [('key_heads', 2)]",
    "TalkingHeadsSelfAttention.softmax_heads_dims = [('heads', 3)]",
    "TalkingHeadsSelfAttention.value_heads_dims = [('value_heads', 4)]",
    "TalkingHeadsSelfAttention.key_size = 5",
    "TalkingHeadsSelfAttention.value_size = 7",
)


@dataclass(frozen=True)
class Variant:
    """A model, and what is expected of its port.

    Attributes:
        files, overrides: the published gin files, and what shrinks and changes them.
        model_type: of the converted directory.
        answers: what `--config` must say when operative_config.gin is lost; None: all of it.
        build: further settings of the checkpoint (kind, vocabularies).
        note: "overflow": experts overflow, which transformers handles otherwise.
        blind: whether the inputs have rows that see nothing; see `awkward_inputs`.
    """

    files: tuple[str, ...]
    overrides: tuple[str, ...] = SIZES
    model_type: str = "mesh_t5"
    answers: Mapping[str, object] | None = field(default_factory=dict)
    build: Mapping[str, object] = field(default_factory=dict)
    blind: bool = True
    note: str = ""


def t5(
    *overrides: str, model_type: str = "mesh_t5", answers: Mapping[str, object] | None = MappingProxyType({})
) -> Variant:
    """A T5 1.0 with something changed."""
    return Variant(V1_0, (*SMALL, *overrides), model_type, answers)


def talking(*overrides: str, answers: Mapping[str, object] | None = None) -> Variant:
    """Talking heads, three sets of different size."""
    return Variant(TALKING, (*SIZES, *HEADS, *overrides), answers=answers)


def mixture(
    gating: str,
    *settings: str,
    every: int = 2,
    model_type: str = "mesh_t5",
    note: str = "",
    **answers: object,
) -> Variant:
    """Every second feed-forward layer (or every one) a mixture of experts."""
    attention, memory = "@transformer_layers.SelfAttention", "@transformer_layers.EncDecAttention"
    dense = ["@transformer_layers.DenseReluDense", "@moe.MoE1D"][2 - every :]
    encoder = ", ".join(f"{attention}, {kind}" for kind in dense)
    decoder = ", ".join(f"{attention}, {memory}, {kind}" for kind in dense)
    lines = (
        f"encoder/make_layer_stack.layers = [{encoder}]",
        f"decoder/make_layer_stack.layers = [{decoder}]",
        f"MoE1D.moe_gating = {gating!r}",
        "MoE1D.num_experts = 5",
        "MoE1D.hidden_size = 40",
        *(f"MoE1D.{setting}" for setting in settings),
    )
    return Variant(V1_0, (*SMALL, *lines), model_type, answers, blind=False, note=note)


def every_activation() -> str:
    """An encoder with one feed-forward layer for each activation, each behind a norm of its own."""
    names = [name for name in ACTIVATIONS if name != "linear"]
    dense = [f"(@transformer_layers.DenseReluDense, {{'activation': {name!r}}})" for name in names]
    return f"encoder/make_layer_stack.layers = [@transformer_layers.SelfAttention, {', '.join(dense)}]"


VARIANTS: dict[str, Variant] = {
    # 1. shared heads, shared keys and values
    "sh": t5("SelfAttention.num_memory_heads = 1"),
    "grouped heads": t5("num_heads = 6", "SelfAttention.num_memory_heads = 2"),
    "skv": t5("SelfAttention.shared_kv = True"),
    "sh and skv": t5("SelfAttention.num_memory_heads = 1", "SelfAttention.shared_kv = True"),
    "grouped skv": t5(
        "num_heads = 6", "SelfAttention.num_memory_heads = 3", "SelfAttention.shared_kv = True"
    ),
    # 2. heterogeneous stacks
    "n4w10": Variant(N4W10, ("d_model = 16", "d_ff = 40", "d_kv = 4", "num_heads = 9"), blind=False),
    # 3. talking heads
    "talking heads": talking(answers={}),
    "talking heads, one set of heads": Variant(TALKING, SIZES),
    "talking heads that share a dimension": talking(
        "TalkingHeadsSelfAttention.key_heads_dims = [('heads', 2), ('key_heads', 3)]",
        "TalkingHeadsSelfAttention.softmax_heads_dims = [('heads', 2), ('softmax_heads', 2)]",
        "TalkingHeadsSelfAttention.value_heads_dims = [('heads', 2)]",
    ),
    "talking heads, dynamic": talking(
        "TalkingHeadsSelfAttention.dynamic_projections = ['x2l', 'm2l', 'x2w', 'm2w']", answers={}
    ),
    # 4. shared encoder and decoder, named layers
    "bi_v1_shared": Variant(("defaults.gin", "models/bi_v1_shared.gin")),
    # 5. absolute positions
    "learned positions": Variant(BERT, answers={"d_kv": 12}),
    "sinusoids": Variant(
        BERT, (*SIZES, "Unitransformer.sinusoid_positional_embedding = True"), answers={"d_kv": 12}
    ),
    # 6. single stacks
    "lm_v1": Variant(("defaults.gin", "models/lm_v1.gin"), build={"kind": "lm"}),
    "lm_v1_ifa": Variant(
        ("defaults.gin", "models/lm_v1_ifa.gin"),
        answers={"input_full_attention": True},
        build={"kind": "lm"},
    ),
    "aligned": Variant(
        BI_V1,
        answers={"autoregressive": False},
        build={"kind": "aligned"},
    ),
    # 7. relative positions
    "bias of each layer": t5("SelfAttention.relative_attention_type = 'bias'", model_type="umt5"),
    "contextual": t5("SelfAttention.relative_attention_type = 'contextual'"),
    "contextual, grouped heads": t5(
        "SelfAttention.relative_attention_type = 'contextual'",
        "num_heads = 6",
        "SelfAttention.num_memory_heads = 2",
        "SelfAttention.relative_attention_num_buckets = 20",
    ),
    "no positions": t5(
        "SelfAttention.relative_attention_type = None", answers={"positions": "none", "d_kv": 12}
    ),
    "towards the encoder": t5(
        "EncDecAttention.relative_attention_type = 'bias_shared'",
        "relative_position_spans.num_sentinels = 10",
        answers={"first_sentinel_id": 118},
    ),
    "towards the encoder, each layer": t5(
        "EncDecAttention.relative_attention_type = 'bias'",
        "relative_position_spans.num_sentinels = 30",
        "SelfAttention.relative_attention_num_buckets = 24",
        answers={"first_sentinel_id": 98},
    ),
    # 8. layouts and details
    "unfolded scaling": t5(
        "SelfAttention.fold_scaling_into_initializer = False",
        answers={"fold_scaling_into_initializer": False},
    ),
    "unfolded scaling, contextual": t5(
        "SelfAttention.fold_scaling_into_initializer = False",
        "SelfAttention.relative_attention_type = 'contextual'",
        answers={"fold_scaling_into_initializer": False},
    ),
    "three-dimensional weights": t5("SelfAttention.combine_dims = False", model_type="t5"),
    "three-dimensional weights, grouped": t5(
        "SelfAttention.combine_dims = False", "num_heads = 6", "SelfAttention.num_memory_heads = 2"
    ),
    "three-dimensional weights, sh and skv": t5(
        "SelfAttention.combine_dims = False",
        "SelfAttention.num_memory_heads = 1",
        "SelfAttention.shared_kv = True",
    ),
    "biases": t5("DenseReluDense.use_bias = True"),
    "no scopes of blocks": t5("make_layer_stack.block_scope = False", model_type="t5"),
    "layers that all blocks share": t5(
        "make_layer_stack.block_scope = False",
        "encoder/make_layer_stack.layers = [('a', @transformer_layers.SelfAttention),"
        " ('b', @transformer_layers.DenseReluDense)]",
        answers=None,
    ),
    "own embeddings": Variant(
        V1_1,
        (*SMALL, "Bitransformer.shared_embedding = False"),
        build={"vocab_size": 200, "target_vocab_size": 100},
    ),
    "own embeddings, tied": Variant(
        V1_0,
        (*SMALL, "Bitransformer.shared_embedding = False"),
        build={"vocab_size": 100, "target_vocab_size": 200},
    ),
    "scaled embeddings": t5(
        "VocabEmbedding.scale_variable_like_classifier_weights = True", answers={"scale_embedding": True}
    ),
    "every activation": t5(every_activation(), answers=None),
    "product of three": t5(
        "DenseReluDense.activation = ['linear', 'gelu', 'sigmoid']",
        answers={"activations": ["linear", "gelu", "sigmoid"]},
    ),
    "one head": t5("num_heads = 1", model_type="t5"),
    "one head, contextual": t5("num_heads = 1", "SelfAttention.relative_attention_type = 'contextual'"),
    "uneven stacks": Variant(
        V1_0,
        (
            *SMALL,
            "Bitransformer.shared_embedding = False",
            "encoder/SelfAttention.num_heads = 5",
            "encoder/DenseReluDense.hidden_size = 56",
            "decoder/DenseReluDense.activation = ['gelu', 'linear']",
        ),
        build={"vocab_size": 100, "target_vocab_size": 200},
    ),
    # 9. mixtures of experts
    "switch, every second": mixture("switch", model_type=SWITCH),
    "switch, all": mixture("switch", every=1, model_type=SWITCH),
    "switch, overflowing": mixture(
        "switch", "capacity_factor_eval = 0.5", model_type=SWITCH, note="overflow", capacity_factor_eval=0.5
    ),
    "switch, groups": mixture(
        "switch", "group_size = 64", model_type=SWITCH, note="overflow", moe_group_size=64
    ),
    "switch, gated, sees tokens": mixture(
        "switch", "activation = ['gelu', 'linear']", "word_embed_mode = 'concat'", word_embed_mode="concat"
    ),
    "switch, alone": Variant(
        ("defaults.gin", "models/lm_v1.gin"),
        (
            *SIZES,
            "make_layer_stack.layers = [@transformer_layers.SelfAttention, @moe.MoE1D]",
            "MoE1D.num_experts = 4",
            "MoE1D.moe_gating = 'switch'",
            "MoE1D.word_embed_mode = 'add'",
        ),
        answers={"word_embed_mode": "add"},
        build={"kind": "lm"},
    ),
    "switch_max": mixture("switch_max", "capacity_factor_eval = 0.5", capacity_factor_eval=0.5),
    "expert_selection": mixture("expert_selection"),
    "top_2": mixture(
        "top_2", "second_policy_eval = 'all'", "use_second_place_loss = True", use_second_place_loss=True
    ),
    "top_2, threshold": mixture(
        "top_2",
        "second_policy_eval = 'threshold'",
        "second_threshold_eval = 0.3",
        "capacity_factor_eval = 1.0",
        second_policy="threshold",
        second_threshold=0.3,
        capacity_factor_eval=1.0,
    ),
    "top_2, one": mixture("top_2", "second_policy_eval = 'none'", second_policy="none"),
    "top_n": mixture(
        "top_n", "second_policy_eval = 'all'", "capacity_factor_eval = 1.5", capacity_factor_eval=1.5
    ),
    "ntlb": mixture(
        "ntlb",
        "capacity_factor_eval = 0.8",
        "ntlb_top_k = 3",
        capacity_factor_eval=0.8,
        experts_per_token=3,
    ),
}


# What they are made of is in others, each kind at least once: these run with `make test-slow`.
COMBINED = (
    "grouped heads",
    "sh and skv",
    "grouped skv",
    "talking heads, one set of heads",
    "talking heads that share a dimension",
    "contextual, grouped heads",
    "towards the encoder, each layer",
    "unfolded scaling, contextual",
    "three-dimensional weights, grouped",
    "three-dimensional weights, sh and skv",
    "own embeddings, tied",
    "product of three",
    "one head, contextual",
    "switch, all",
    "switch, overflowing",
    "switch, groups",
    "switch_max",
    "top_2, threshold",
    "top_2, one",
)


@dataclass(frozen=True)
class Ported:
    """A checkpoint, what was made of it, and what the original computes from it."""

    variant: Variant
    checkpoint: Path
    conversion: Conversion
    trace: Trace


@pytest.fixture(scope="module")
def running() -> Iterator[ReferenceProcess]:
    """The original, which starts once for all variants."""
    with ReferenceProcess(PORT.reference) as process:
        yield process


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in COMBINED else name for name in VARIANTS],
    ids=lambda name: name.replace(" ", "-").replace(",", ""),
)
def ported(
    request: pytest.FixtureRequest,
    make_checkpoint: MakeCheckpoint,
    running: ReferenceProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ported:
    variant = VARIANTS[request.param]
    checkpoint = make_checkpoint(variant.files, variant.overrides, **variant.build)
    conversion = convert_checkpoint(checkpoint, tmp_path_factory.mktemp("converted") / "model")
    ids = awkward_inputs(str(variant.build.get("kind", "bitransformer")), blind=variant.blind)
    with Original(checkpoint, process=running) as original:
        return Ported(variant, checkpoint, conversion, original.run(ids))


def awkward_inputs(kind: str, *, blind: bool) -> Inputs:
    """Padding at the end and inside, a row that is nearly all padding, lengths beyond 128.

    A padded target of a row whose inputs have no padding sees nothing, and sums 140 values (test_parity.py).
    In a deep decoder its hidden states reach hundreds, where float32 has no 1e-4: not every variant has one.
    """
    generator = np.random.default_rng(5)
    inputs = generator.integers(2, 100, size=(3, 140))
    targets = generator.integers(2, 100, size=(3, 140 if kind != "bitransformer" else 130))
    for array in (inputs, targets):
        array[1, 20:] = 0
        array[2, 40:70] = 0
        array[:2, 7] = 1
        array[0, 100] = 1
    targets[0, 120:] = 0
    inputs[0, 136 if not blind else 140 :] = 0
    if kind == "lm":
        inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return Inputs.from_arrays({"inputs": inputs, "targets": targets})


def test_every_tapped_tensor_agrees(ported: Ported) -> None:
    comparison = compare_outputs(ported.trace, ported.conversion.output, atol=ATOL)
    assert comparison.status == "match", (comparison.first_divergence, comparison.to_json()["unmatched"])
    loss = next(row for row in comparison.tensors if row.name == "loss")
    assert loss.max_rel_diff < 1e-5 and loss.reference > 0.1


def test_the_directory_says_what_it_is_and_loads(ported: Ported) -> None:
    """Nothing is hooked here: attention is fused."""
    config = json.loads((ported.conversion.output / "config.json").read_text())
    assert config["model_type"] == ported.variant.model_type
    ids = ported.trace.inputs
    with torch.no_grad():
        output = load_model(ported.conversion.output)(
            input_ids=torch.tensor(ids["inputs"]).long(), labels=torch.tensor(ids["targets"]).long()
        )
    assert np.abs(output.logits.numpy() - ported.trace["logits"]).max() < ATOL
    assert output.loss.item() == pytest.approx(float(ported.trace["loss"]), rel=1e-5)


def test_transformers_loads_what_it_has_an_architecture_for(ported: Ported) -> None:
    classes = {
        "t5": transformers.T5ForConditionalGeneration,
        "umt5": transformers.UMT5ForConditionalGeneration,
        "switch_transformers": transformers.SwitchTransformersForConditionalGeneration,
    }
    if ported.variant.model_type not in classes:
        pytest.skip("transformers has no such architecture")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = classes[ported.variant.model_type].from_pretrained(
            ported.conversion.output, output_loading_info=True, dtype=torch.float32
        )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if "overflow" in ported.variant.note:
        return  # transformers fills experts by a fixed capacity in each sequence
    ids = ported.trace.inputs
    inputs, targets = (torch.tensor(array).long()[:2] for array in (ids["inputs"], ids["targets"]))
    with torch.no_grad():
        logits = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=targets).logits
    expected = torch.tensor(np.array(ported.trace["logits"]))[:2]
    assert (logits - expected)[targets != 0].abs().max() < ATOL


def without_config(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint's files in a folder of their own."""
    folder.mkdir()
    for file in checkpoint.glob("model.ckpt*"):
        (folder / file.name).symlink_to(file)
    return folder


def test_the_variables_tell_what_the_config_said(ported: Ported, tmp_path: Path) -> None:
    """operative_config.gin is lost: the same model is planned, after answers to what nothing tells."""
    variant, checkpoint = ported.variant, ported.checkpoint
    if variant.answers is None:
        pytest.skip("the variables do not tell: the next test")
    expected = convert_checkpoint(checkpoint, tmp_path / "given", dry_run=True)
    bare = without_config(checkpoint, tmp_path / "bare")
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(dict(variant.answers)))
    found = convert_checkpoint(
        bare, tmp_path / "found", dry_run=True, config=answers if variant.answers else None
    )
    wanted, inferred = (conversion.resolved.config.architecture for conversion in (expected, found))
    not_told = {"loss_denominator": None, "dropout_rate": 0.0}
    assert same_model(replace(inferred, **not_told), replace(wanted, **not_told))
    assert [entry.to_json() for entry in found.plan.entries] == [
        entry.to_json() for entry in expected.plan.entries
    ]


def test_what_nothing_tells_is_said_or_asked_for(ported: Ported, tmp_path: Path) -> None:
    variant, checkpoint = ported.variant, ported.checkpoint
    bare = without_config(checkpoint, tmp_path / "bare")
    try:
        said = "\n".join(convert_checkpoint(bare, tmp_path / "found", dry_run=True).resolved.assumed)
    except ConfigError as error:
        said = str(error)
    assert "--config" in said
    for name in variant.answers or ():
        assert name in said


def test_the_config_can_be_written_for_the_original(ported: Ported, tmp_path: Path) -> None:
    """The text that is given to Mesh where no config came along says the same model."""
    variant, checkpoint = ported.variant, ported.checkpoint
    shapes = variable_shapes(open_checkpoint(checkpoint))
    config, _ = config_from_gin(checkpoint / "operative_config.gin", shapes)
    text = gin_from_config(config, list(shapes))
    if not config.is_encoder_decoder:  # Mesh is told by its training script
        text += f"run.model_type = {variant.build['kind']!r}\n"
    (tmp_path / "operative_config.gin").write_text(text)
    again, _ = config_from_gin(tmp_path / "operative_config.gin", shapes)
    assert again == config


# config.json says these in transformers' terms, which leave out how the variables lie.
LAYOUT_LOST = ("three-dimensional weights", "no scopes of blocks")


def restored_bits(checkpoint: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Of every variable what TensorFlow restores: dtype, shape, bytes."""
    tensorflow = pytest.importorskip("tensorflow")
    reader = tensorflow.train.load_checkpoint(str(checkpoint))
    kinds = reader.get_variable_to_dtype_map()
    return {
        name: (kinds[name].name, tuple(shape), reader.get_tensor(name).tobytes())
        for name, shape in reader.get_variable_to_shape_map().items()
    }


def test_the_way_back_gives_mesh_what_mesh_had(
    ported: Ported, running: ReferenceProcess, tmp_path: Path
) -> None:
    """TensorFlow restores every bit, and Mesh, told by our own config text, computes every bit again."""
    model = tmp_path / "model"
    shutil.copytree(ported.conversion.output, model)
    manifest = json.loads((model / "porting.json").read_text())
    manifest["original"]["config"] = None  # so that the text is made from config.json
    (model / "porting.json").write_text(json.dumps(manifest))
    back = convert_checkpoint(model, tmp_path / "back", to="mesh")
    assert back.verified

    first, again = restored_bits(ported.checkpoint), restored_bits(back.output)
    assert again == {name: bits for name, bits in first.items() if is_weight(name) or name == "global_step"}
    with Original(back.output, process=running) as original:
        trace = original.run(ported.trace.inputs)
    assert [tensor.name for tensor in trace.tensors] == [tensor.name for tensor in ported.trace.tensors]
    for tensor in ported.trace.tensors:
        np.testing.assert_array_equal(trace[tensor.name], ported.trace[tensor.name], tensor.name)


def test_the_config_tells_how_mesh_calls_everything(ported: Ported) -> None:
    """Where nobody remembers it: from gin, from a model directory's config.json, and inferred."""
    shapes = variable_shapes(open_checkpoint(ported.checkpoint))
    weights = {name: shape for name, shape in shapes.items() if is_weight(name)}
    config = ported.conversion.resolved.config
    assert variables(config) == weights
    saved = PORT.config_from_json(json.loads((ported.conversion.output / "config.json").read_text()))
    lost = any(VARIANTS[name] is ported.variant for name in LAYOUT_LOST)
    assert (variables(saved) == weights) != lost
    assert variables(located(saved, weights)) == weights
    if ported.variant.answers is not None:
        assert variables(infer_config(weights, ported.variant.answers).config) == weights


def test_the_documentation_lists_these_variants() -> None:
    text = (Path(__file__).parents[2] / "porting" / "ports" / "t5" / "FAMILY.md").read_text()
    text = text.partition("## From T5X")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    listed = {row[0]: row for row in rows[2:] if len(row) == 4}
    assert list(listed) == list(VARIANTS)
    for name, variant in VARIANTS.items():
        assert listed[name][3].startswith("no" if variant.model_type == "mesh_t5" else "yes")
        inferred = "needs" if variant.answers is None else "after answers" if variant.answers else "yes"
        assert listed[name][2].startswith(inferred), name
        assert all(f"`{answer}`" in listed[name][2] for answer in variant.answers or ())


# Beams: Mesh's beam search does not run with mixtures (they want a layout), nor with relative positions
# towards the encoder.
DECODED = {"grouped heads": 2, "talking heads": 1, "lm_v1_ifa": 1}
DECODED_SLOWLY = {
    "sh and skv": 3,
    "contextual": 2,
    "learned positions": 2,
    "sinusoids": 1,
    "towards the encoder": 1,
    "switch, every second": 1,
    "own embeddings, tied": 3,
    "bi_v1_shared": 2,
    "lm_v1": 1,
}


@pytest.mark.parametrize(
    ("name", "num_beams"),
    [*DECODED.items(), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in DECODED_SLOWLY.items())],
)
def test_tokens_are_the_originals(
    name: str, num_beams: int, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    variant, steps = VARIANTS[name], 12
    checkpoint = make_checkpoint(variant.files, variant.overrides, **variant.build)
    convert_checkpoint(checkpoint, tmp_path / "model")
    model = load_model(tmp_path / "model")
    ids = np.random.default_rng(3).integers(2, 100, size=(6, 9)).astype(np.int32)
    lengths = np.arange(3, 9)
    ids[np.arange(9) >= lengths[:, None]] = 0
    original = decode_with_original(checkpoint, ids, num_beams=num_beams, max_new_tokens=steps)
    if variant.build.get("kind") == "lm":
        read = torch.tensor(np.pad(ids, ((0, 0), (1, 0)))).long()
        port = model.generate(read, max_new_tokens=steps)[:, 1:].numpy()
        # Mesh goes on to the end of its array; beginnings are of different length.
        original[np.arange(original.shape[1]) >= lengths[:, None] + steps] = 0
    else:
        read = torch.tensor(ids).long()
        port = model.generate(read, max_new_tokens=steps, num_beams=num_beams)[:, 1:].numpy()
    for theirs, ours in zip(original, port, strict=True):
        assert said(theirs) == said(ours)


def said(row: np.ndarray) -> list[int]:
    """Tokens up to the first end, padding left away."""
    tokens = row[row != 0].tolist()
    return tokens[: tokens.index(1) + 1] if 1 in tokens else tokens


@pytest.mark.slow
def test_the_original_is_rebuilt_from_what_was_inferred(ported: Ported, tmp_path: Path) -> None:
    """Both sides without operative_config.gin."""
    variant = ported.variant
    if variant.answers is None:
        pytest.skip("the variables do not tell")
    bare = without_config(ported.checkpoint, tmp_path / "bare")
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(dict(variant.answers)))
    config = answers if variant.answers else None
    convert_checkpoint(bare, tmp_path / "model", config=config)
    comparison = compare_outputs(bare, tmp_path / "model", ported.trace.inputs, atol=ATOL, config=config)
    assert comparison.status == "match", comparison.first_divergence
