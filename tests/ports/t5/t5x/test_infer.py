"""What T5X's variables show of a model, what is assumed, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from porting.errors import ConfigError
from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import T5Config, UMT5Config
from porting.ports.t5.naming import infer_config, read_config
from porting.ports.t5.port import PORT
from porting.ports.t5.spelling import spelling
from tests.conftest import REPOSITORY
from tests.ports.t5.t5x.checkpoints import scalable_shapes, t5_shapes

V1_1 = T5Config(
    vocab_size=64,
    d_model=20,
    d_kv=8,
    d_ff=36,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=3,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)
Shapes = dict[str, Shape]


def test_a_t5_1_1_is_inferred() -> None:
    resolved = infer_config(t5_shapes())
    assert spelling(resolved.config) == V1_1
    said = " ".join(resolved.inferred)
    assert "3 heads of 8" in said
    assert "encoder of 3 blocks" in said
    assumed = " ".join(resolved.assumed)
    assert '{"feed_forward_proj": "gated-silu"}' in assumed
    assert '{"encoder_attention_type": "local", "local_radius": 127}' in assumed


def test_a_t5_1_0_is_inferred() -> None:
    config = spelling(infer_config(t5_shapes(gated=False, tied=True)).config)
    assert isinstance(config, T5Config)
    assert (config.feed_forward_proj, config.tie_word_embeddings) == ("relu", True)


@pytest.mark.parametrize("scanned", [True, False])
def test_tables_of_each_layer_are_a_umt5s(scanned: bool) -> None:
    resolved = infer_config(scalable_shapes(scanned=scanned))
    found = spelling(resolved.config, "umt5")
    assert isinstance(found, UMT5Config)
    assert (found.num_layers, found.num_decoder_layers, found.num_heads, found.d_kv) == (3, 2, 3, 8)
    assert "encoder_attention_type" not in " ".join(resolved.assumed)


def test_decoder_and_encoder_may_differ() -> None:
    shapes = t5_shapes()
    for name, shape in list(shapes.items()):
        if name.startswith("target/decoder/layers") and "/wi_" in name:
            shapes[name] = (shape[0], 12)
        elif name.startswith("target/decoder/layers") and "mlp/wo" in name:
            shapes[name] = (12, shape[1])
    config = infer_config(shapes).config
    assert isinstance(config, Architecture)
    assert isinstance(spelling(config), Architecture)
    assert [stack.layers[-1].d_ff for stack in config.stacks.values()] == [36, 12]  # type: ignore[union-attr]


def test_two_embeddings_are_two_vocabularies() -> None:
    shapes = t5_shapes()
    del shapes["target/token_embedder/embedding"]
    shapes["target/encoder/token_embedder/embedding"] = (90, 20)
    shapes["target/decoder/token_embedder/embedding"] = (64, 20)
    config = infer_config(shapes).config
    assert (config.source_vocab_size, config.vocab_size, config.shares_embedding) == (90, 64, False)
    rules = PORT.rules(config, [*shapes])
    for name in shapes:
        assert sum(rule.regex.fullmatch(name) is not None for rule in rules) == 1


@pytest.mark.parametrize(
    ("gone", "key"),
    [
        ("attention/query/kernel", "target/encoder/layers_0/attention/query/kernel"),
        ("mlp/wo/kernel", "target/decoder/layers_0/mlp/wo/kernel"),
        ("target/encoder/relpos_bias", "target/encoder/relpos_bias/rel_embedding"),
        ("mlp/wi_", "target/encoder/.../mlp/wi"),
    ],
)
def test_what_sizes_are_read_off_must_be_there(gone: str, key: str) -> None:
    shapes = {name: shape for name, shape in t5_shapes().items() if gone not in name}
    with pytest.raises(ConfigError) as caught:
        infer_config(shapes)
    assert key in [problem.key for problem in caught.value.problems]
    assert "--config" in caught.value.remedy


def test_all_problems_are_listed() -> None:
    shapes = {n: s for n, s in t5_shapes().items() if "relpos" not in n and "mlp/wo" not in n}
    with pytest.raises(ConfigError) as caught:
        infer_config(shapes)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("target/encoder/relpos_bias/rel_embedding", (3,), "heads, buckets"),
        ("target/encoder/relpos_bias/rel_embedding", (5, 32), "multiple of 5 heads"),
        ("target/token_embedder/embedding", (64,), "vocab, d_model"),
        ("target/encoder/layers_0/attention/query/kernel", (20,), "heads"),
        ("target/encoder/layers_0/attention/query/kernel", (20, 4, 6), "3 heads"),
    ],
)
def test_shapes_that_cannot_be_are_refused(name: str, shape: Shape, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        infer_config({**t5_shapes(), name: shape})
    assert any(expected in problem.expected for problem in caught.value.problems)


def test_scanned_variables_must_have_one_number_of_layers() -> None:
    name = "target/encoder/encoder/mlp/wo/kernel"
    with pytest.raises(ConfigError, match=r"mlp/wo/kernel.*3 layers"):
        infer_config({**scalable_shapes(scanned=True), name: (36, 4, 20)})


def separate_embeddings() -> Shapes:
    shapes = {name: shape for name, shape in t5_shapes().items() if "token_embedder" not in name}
    return shapes | {f"target/{stack}/token_embedder/embedding": (64, 20) for stack in ("encoder", "decoder")}


SIDE: Shapes = {"target/encoder/side_relpos_bias/rel_embedding": (3, 32)}
# Rows of FAMILY.md's table "From T5X": variables, and what the answers that it names make of them.
LISTED: dict[str, tuple[Shapes, str]] = {
    "T5 1.0": (t5_shapes(gated=False, tied=True), "t5"),
    "T5 1.1, mT5, ByT5, FLAN-T5": (t5_shapes(), "t5"),
    "T5 1.1 with a tied output": (t5_shapes(tied=True), "t5"),
    "scalable T5, umT5": (scalable_shapes(scanned=False), "umt5"),
    "scanned": (scalable_shapes(scanned=True), "umt5"),
    "an embedding for each stack": (separate_embeddings(), "mesh_t5"),
    "LongT5, local": (t5_shapes(), "longt5"),
    "LongT5, transient-global": ({**t5_shapes(), **SIDE}, "longt5"),
}


def test_the_documentation_lists_these_forms(tmp_path: Path) -> None:
    text = (REPOSITORY / "porting" / "ports" / "t5" / "FAMILY.md").read_text()
    part = text.partition("## From T5X")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if "|" in line][2:]
    assert [row[0] for row in rows] == [*LISTED]
    known = {"encoder_attention_type": "local", "local_radius": 5, "global_block_size": 4}
    for name, _, inferred, loads in rows:
        shapes, model_type = LISTED[name]
        answers = {key: value for key, value in known.items() if f"`{key}`" in inferred}
        asked = {"model_type": "umt5"} if "if asked for" in loads else {}
        config = read_config(written(tmp_path, **answers, **asked), shapes).config
        assert PORT.config_to_json(config)["model_type"] == model_type, name
        assert loads.startswith("no" if model_type == "mesh_t5" else "yes")
        assumed = " ".join(infer_config(shapes).assumed)
        assert all(f"{key} " in assumed or f'"{key}"' in assumed for key in answers), name


@pytest.mark.parametrize(
    ("form", "name", "shape"),
    [
        ("scanned", "target/decoder/decoder/mlp/wo/kernel", (36,)),
        ("1.1", "target/encoder/relpos_bias/rel_embedding", (0, 32)),
        ("1.1", f"target/encoder/layers_{'9' * 5000}/mlp/wo/kernel", (36, 20)),
    ],
)
def test_found_by_the_fuzzer(form: str, name: str, shape: Shape) -> None:
    shapes = t5_shapes() if form == "1.1" else scalable_shapes(scanned=True)
    if form == "scanned":
        shapes = {n: s for n, s in shapes.items() if "decoder/decoder" not in n}
    changed = {name: shape, **shapes} if name not in shapes else {**shapes, name: shape}
    with suppress(ConfigError):
        infer_config(changed)


# --- a config.json ---


def written(folder: Path, **content: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def test_an_answer_overrides_an_assumption(tmp_path: Path) -> None:
    resolved = read_config(written(tmp_path, feed_forward_proj="gated-silu", dropout_rate=0.2), t5_shapes())
    config = spelling(resolved.config.architecture)
    assert isinstance(config, T5Config)
    assert (config.feed_forward_proj, config.dropout_rate) == ("gated-silu", 0.2)
    assert "activation" not in " ".join(resolved.assumed)


def test_an_answer_that_the_variables_contradict_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, num_layers=9, d_ff=35, d_kv=8)
    with pytest.raises(ConfigError, match="contradicts") as caught:
        read_config(path, t5_shapes())
    assert {problem.key for problem in caught.value.problems} == {"num_layers", "d_ff"}


def test_a_complete_config_says_all_but_how_heads_lie(tmp_path: Path) -> None:
    shapes = scalable_shapes(scanned=True)
    content = UMT5Config(**asdict(V1_1)).to_json()
    resolved = read_config(written(tmp_path, **content), shapes)
    attention = resolved.config.encoder.layers[0]
    assert not attention.combine_dims
    assert PORT.config_to_json(resolved.config) == content


def test_a_scanned_model_is_written_as_a_umt5_when_asked_for(tmp_path: Path) -> None:
    shapes = scalable_shapes(scanned=True)
    asked = read_config(written(tmp_path, model_type="umt5"), shapes).config
    assert PORT.config_to_json(asked)["model_type"] == "umt5"
    assert PORT.config_to_json(infer_config(shapes).config)["model_type"] == "mesh_t5"


def test_a_config_of_a_far_larger_model_is_refused_before_it_is_built(tmp_path: Path) -> None:
    content = {**V1_1.to_json(), "num_layers": 2000}
    with pytest.raises(ConfigError, match="another size"):
        read_config(written(tmp_path, **content), t5_shapes())
