from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porting.errors import ConfigError
from porting.gin_file import GinFile, Reference, read_gin
from tests.conftest import RunPython

Gin = Callable[[str], GinFile]


@pytest.fixture
def gin(tmp_path: Path) -> Gin:
    """Parse a text as a gin file."""

    def parse(text: str) -> GinFile:
        path = tmp_path / "some.gin"
        path.write_text(text)
        return read_gin(path)

    return parse


def test_values_of_every_kind(gin: Gin) -> None:
    file = gin(
        "A.text = 'swish'\nA.number = 1e-6\nA.flag = True\nA.nothing = None\n"
        "A.list = ['gelu', 'linear']\nA.tuple = ('a', 1)\nA.dict = {'x': [1, 2]}\n"
        "A.long = \\\n    [1,\n     2]\n"
    )
    found = {
        key: file.get("", "A", key) for key in ("text", "number", "flag", "list", "tuple", "dict", "long")
    }
    assert found == {
        "text": "swish",
        "number": 1e-6,
        "flag": True,
        "list": ["gelu", "linear"],
        "tuple": ("a", 1),
        "dict": {"x": [1, 2]},
        "long": [1, 2],
    }


def test_what_is_bound_to_none_is_not_the_default(gin: Gin) -> None:
    file = gin("A.x = None")
    assert file.get("", "A", "x", default=3) is None
    assert file.get("", "A", "y", default=3) == 3
    assert file.get("", "B", "x", default=3) == 3


def test_the_last_binding_wins(gin: Gin) -> None:
    assert gin("A.x = 1\nA.x = 2").get("", "A", "x") == 2


@pytest.mark.parametrize("first", ["", "encoder/"])
def test_the_innermost_scope_wins_wherever_it_stands(gin: Gin, first: str) -> None:
    second = "encoder/" if not first else ""
    values = {"": 1, "encoder/": 2}
    file = gin(f"{first}A.x = {values[first]}\n{second}A.x = {values[second]}")
    assert file.get("encoder", "A", "x") == 2
    assert file.get("decoder", "A", "x") == 1


def test_a_scope_is_matched_from_its_beginning(gin: Gin) -> None:
    file = gin("a/b/A.x = 3\nb/A.x = 4")
    assert file.get("a/b", "A", "x") == 3
    assert file.get("a/b/c", "A", "x") == 3
    assert file.get("a", "A", "x") is None
    assert file.get("b", "A", "x") == 4
    assert file.get("ab", "A", "x") is None


def test_names_may_be_qualified_by_their_module(gin: Gin) -> None:
    file = gin("decoder/mesh_tensorflow.transformer.transformer_layers.SelfAttention.num_heads = 6")
    assert file.get("decoder", "SelfAttention", "num_heads") == 6
    assert file.binds("SelfAttention")


def test_a_longer_name_is_another_configurable(gin: Gin) -> None:
    file = gin("transformer_layers.TalkingHeadsSelfAttention.num_heads = 6")
    assert file.get("", "SelfAttention", "num_heads") is None
    assert not file.binds("SelfAttention")
    assert file.binds("TalkingHeadsSelfAttention")


def test_references_are_names_and_nothing_more(gin: Gin) -> None:
    file = gin(
        "A.layers = [@transformer_layers.SelfAttention, ('ff', @DenseReluDense, {'scale': @pkg.Other()})]\n"
        "A.scoped = @encoder/transformer.Layer\n"
    )
    first, (name, second, settings) = file.get("", "A", "layers")
    assert (first.name, name, second.name) == ("SelfAttention", "ff", "DenseReluDense")
    assert settings == {"scale": Reference("pkg.Other")}
    assert settings["scale"].name == "Other"
    assert file.get("", "A", "scoped") == Reference("encoder/transformer.Layer")
    assert file.get("", "A", "scoped").name == "Layer"


def test_macros_are_resolved_wherever_they_stand(gin: Gin) -> None:
    file = gin("A.x = %width\nA.y = [%width, {'w': (%width, 1)}]\nwidth = %half\nhalf = 32\nhalf = 16")
    assert file.get("", "A", "x") == 16
    assert file.get("", "A", "y") == [16, {"w": (16, 1)}]


@pytest.mark.parametrize(
    ("text", "name"), [("x = %x", "x"), ("x = %y\ny = %z\nz = [%y]", "y"), ("x = {'a': (%x,)}", "x")]
)
def test_a_macro_that_refers_to_itself_is_named(gin: Gin, text: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"the macro %{name} refers to itself"):
        gin(f"A.x = %x\n{text}").get("", "A", "x")


def test_a_macro_may_be_used_twice(gin: Gin) -> None:
    assert gin("A.x = [%n, %n]\nn = 3").get("", "A", "x") == [3, 3]


def test_a_macro_without_a_value_is_named(gin: Gin) -> None:
    with pytest.raises(ConfigError, match="the macro %missing is used and never given a value"):
        gin("A.x = %missing").get("", "A", "x")


def test_an_unused_macro_without_a_value_harms_nobody(gin: Gin) -> None:
    assert gin("A.x = %missing\nA.y = 1").get("", "A", "y") == 1


def test_includes_are_found_beside_the_file_and_above_it(tmp_path: Path) -> None:
    models = tmp_path / "gin" / "models"
    models.mkdir(parents=True)
    (models / "small.gin").write_text("include 'models/base.gin'\ninclude 'beside.gin'\nA.x = 3\n")
    (models / "base.gin").write_text("include 'defaults.gin'\nA.x = 2\nA.y = 2\n")
    (models / "beside.gin").write_text("A.w = 5\n")
    (tmp_path / "gin" / "defaults.gin").write_text("A.x = 1\nA.y = 1\nA.z = 1\n")
    file = read_gin(models / "small.gin")
    assert [file.get("", "A", key) for key in "xyzw"] == [3, 2, 1, 5]


def test_bindings_before_an_include_are_overridden_by_it(tmp_path: Path) -> None:
    (tmp_path / "base.gin").write_text("A.x = 2")
    (tmp_path / "some.gin").write_text("A.x = 1\ninclude 'base.gin'")
    assert read_gin(tmp_path / "some.gin").get("", "A", "x") == 2


def test_one_file_may_be_included_twice(tmp_path: Path) -> None:
    (tmp_path / "base.gin").write_text("A.x = 2")
    (tmp_path / "some.gin").write_text("include 'base.gin'\nA.x = 1\ninclude 'base.gin'")
    assert read_gin(tmp_path / "some.gin").get("", "A", "x") == 2


def test_a_missing_include_may_be_noted_instead(tmp_path: Path) -> None:
    (tmp_path / "a.gin").write_text("A.x = 1\ninclude 'nowhere/b.gin'\nA.y = 2\n")
    missing: list[str] = []
    gin = read_gin(tmp_path / "a.gin", missing)
    assert missing == ["nowhere/b.gin"]
    assert (gin.get("", "A", "x"), gin.get("", "A", "y")) == (1, 2)
    (tmp_path / "a.gin").write_text("include '../b.gin'\n")
    with pytest.raises(ConfigError, match="not followed"):
        read_gin(tmp_path / "a.gin", missing)


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_files_that_include_each_other_are_refused(tmp_path: Path, chain: list[str]) -> None:
    for name, following in zip(chain, [*chain[1:], chain[0]], strict=True):
        (tmp_path / f"{name}.gin").write_text(f"include '{following}.gin'\n")
    with pytest.raises(ConfigError, match="in turn"):
        read_gin(tmp_path / "a.gin")


def test_a_loop_further_down_is_refused_by_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "a.gin").write_text("include 'b.gin'")
    (tmp_path / "b.gin").write_text("include 'b.gin'")
    with pytest.raises(ConfigError, match=r"b\.gin includes b\.gin, which includes it in turn"):
        read_gin(tmp_path / "a.gin")


def test_a_missing_include_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.gin").write_text("include 'nowhere/defaults.gin'")
    with pytest.raises(ConfigError, match=r"a\.gin includes nowhere/defaults\.gin") as caught:
        read_gin(tmp_path / "a.gin")
    assert "operative_config.gin" in caught.value.remedy


@pytest.mark.parametrize(
    "content",
    [
        b"A.x = ",
        b"A.x = [1, 2",
        b"A.x = 'open",
        b"A.x = {[1]: 2}",
        b"A.x = __import__('os').system('true')",
        b"A.x = 1 + + ",
        b"= 3",
        b"A..x = 3",
        b"\xff\xfe\x00",
        b"A.x = \x00",
        b"A.x = '''never closed",
        b"  indented = 1\n dedented = 2",
        b"A.x = " + b"[" * 5000 + b"]" * 5000,
        b'{"model_type": "t5"}',
        b"include",
        b"import",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_not_gin_is_refused_by_the_files_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.gin"):
        read_gin(path)


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.gin"):
        read_gin(tmp_path / "none.gin")
    with pytest.raises(ConfigError, match=tmp_path.name):
        read_gin(tmp_path)


def test_an_empty_file_binds_nothing(gin: Gin) -> None:
    assert gin("# only a comment\n").bindings == []


def test_the_real_config_is_read(mtf_tiny_t5: Path) -> None:
    file = read_gin(mtf_tiny_t5 / "operative_config.gin")
    assert file.get("encoder", "SelfAttention", "num_heads") == 2
    assert file.get("decoder", "Unitransformer", "d_model") == 32
    assert [layer.name for layer in file.get("decoder", "make_layer_stack", "layers")] == [
        "SelfAttention",
        "EncDecAttention",
        "DenseReluDense",
    ]
    assert file.get("", "run", "sequence_length") == {"inputs": 512, "targets": 512}


IMPORTS = """
import mesh_tensorflow.transformer.transformer_layers
import t5.models.mesh_transformer
from a.module.that.is.not import there
run.optimizer = @optimize.AdafactorOptimizer
SelfAttention.num_heads = 6
"""


def test_nothing_that_the_file_names_is_imported(tmp_path: Path, run_python: RunPython) -> None:
    (tmp_path / "operative_config.gin").write_text(IMPORTS)
    code = (
        "import sys; from pathlib import Path; from porting.gin_file import read_gin\n"
        f"gin = read_gin(Path({str(tmp_path / 'operative_config.gin')!r}))\n"
        "assert gin.get('', 'SelfAttention', 'num_heads') == 6\n"
        "print([m for m in ('tensorflow', 'torch', 'mesh_tensorflow', 't5', 'a') if m in sys.modules])"
    )
    result = run_python("-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


LINES = [
    "import mesh_tensorflow.optimize",
    "# Macros:",
    "d_ff = 64",
    "num_layers = %d_ff",
    "decoder/DenseReluDense.activation = ['gelu', 'linear']",
    "encoder/LayerStack.sublayers_final = \\",
    "    [@transformer.sublayer_rms_norm, @transformer.sublayer_dropout]",
    "run.sequence_length = {'inputs': 512, 'targets': 512}",
    "make_layer_stack.layers = [('a', @transformer_layers.SelfAttention, {'x': 1e-6})]",
    "run.batch_size = ('tokens_per_batch', 16384)",
    "sublayer_rms_norm.epsilon = 1e-06",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_mutated_text_is_read_or_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    text = "\n".join(data.draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=6)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 5))
        new = data.draw(st.one_of(st.text(max_size=3), st.sampled_from(list("[]{}()'\"\\%@/.=,:#\n\t \x00"))))
        text = text[:at] + new + text[at + cut :]
    path = tmp_path / "mutated.gin"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        gin = read_gin(path)
        for binding in gin.bindings:
            gin.get(binding.scope, binding.selector, binding.parameter)
    except ConfigError as error:
        assert "mutated.gin" in error.message
