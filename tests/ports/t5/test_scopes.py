from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.layer_specs import LayerSpec
from porting.ports.t5.scopes import SourceLayer, layer_patterns, source_layers
from tests.ports.t5.family import DENSE, EXPERTS, MEMORY, OWN, TALKING, TALKING_MEMORY

USUAL = ("SelfAttention", "EncDecAttention", "DenseReluDense")


def variables(scopes: Iterable[tuple[str, str]], stack: str = "decoder") -> list[str]:
    """A norm and a kernel for each (scope, kind), and what lies beside the layers."""
    layers = [
        name
        for scope, kind in scopes
        for name in (f"{stack}/{scope}/rms_norm/scale", f"{stack}/{scope}/{kind}/q")
    ]
    return ["shared/embedding", *layers, f"{stack}/rms_norm/scale", "global_step"]


def decoder(*layers: LayerSpec, num_blocks: int = 2, **settings: object) -> StackSpec:
    return StackSpec(layers=layers, num_blocks=num_blocks, autoregressive=True, scope="decoder", **settings)


def homes(stack: StackSpec, names: list[str]) -> dict[str, str]:
    """Scope in the source -> path in the port, for the layers that the names show."""
    found: dict[str, str] = {}
    scopes = {name.removeprefix("decoder/").rsplit("/", 2)[0] for name in names if name.endswith("/q")}
    for scope in scopes:
        for pattern, target, _ in layer_patterns(stack, names):
            if match := re.fullmatch(pattern, scope):
                assert scope not in found, "claimed once"
                found[scope] = computed(target, match.groupdict())
    return found


def computed(target: str, groups: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return str(int(groups["block"]) * int(match["times"] or 1) + int(match["plus"] or 0))

    return re.sub(r"\{block(?:\*(?P<times>\d+))?(?:\+(?P<plus>\d+))?\}", value, target)


# --- what the variables show ---


def test_numbered_layers_come_in_the_order_of_their_numbers() -> None:
    names = variables(
        [
            ("block_010/layer_000", "SelfAttention"),
            ("block_002/layer_001", "DenseReluDense"),
            ("block_002/layer_000", "SelfAttention"),
        ]
    )
    assert source_layers(names, "decoder") == [
        SourceLayer("block_002/layer_000", 2, "layer_000", "SelfAttention"),
        SourceLayer("block_002/layer_001", 2, "layer_001", "DenseReluDense"),
        SourceLayer("block_010/layer_000", 10, "layer_000", "SelfAttention"),
    ]


def test_numbers_count_for_more_than_kinds() -> None:
    names = variables([("block_000/layer_001", "SelfAttention"), ("block_000/layer_000", "MoE1D")])
    assert [layer.kind for layer in source_layers(names, "decoder")] == ["MoE1D", "SelfAttention"]


def test_named_layers_come_in_the_usual_order() -> None:
    names = variables(
        [
            (f"block_{block:03d}/{name}", kind)
            for block in (1, 0)
            for name, kind in (
                ("feed", "DenseReluDense"),
                ("ask", "TalkingHeadsEncDecAttention"),
                ("attend", "TalkingHeadsSelfAttention"),
            )
        ]
    )
    assert [(layer.block, layer.name) for layer in source_layers(names, "decoder")] == [
        (0, "attend"),
        (0, "ask"),
        (0, "feed"),
        (1, "attend"),
        (1, "ask"),
        (1, "feed"),
    ]


def test_layers_without_blocks_are_numbered_through() -> None:
    names = variables([("layer_010", "DenseReluDense"), ("layer_002", "SelfAttention")])
    assert source_layers(names, "decoder") == [
        SourceLayer("layer_002", None, "layer_002", "SelfAttention"),
        SourceLayer("layer_010", None, "layer_010", "DenseReluDense"),
    ]


def test_only_layers_of_the_stack_are_found() -> None:
    names = variables([("block_000/layer_000", "SelfAttention")], stack="encoder")
    assert source_layers(names, "decoder") == []
    assert source_layers(["decoder/block_000/layer_000/LSTM/q"], "decoder") == []
    assert source_layers(["decoder.x/block_000/layer_000/SelfAttention/q"], "decoder.x")
    assert source_layers(["decoder_x/block_000/layer_000/SelfAttention/q"], "decoder.x") == []


@pytest.mark.parametrize("kinds", [("SelfAttention", "SelfAttention"), ("DenseReluDense", "DenseReluDense")])
def test_names_of_two_layers_of_one_kind_leave_their_order_open(kinds: tuple[str, str]) -> None:
    named = variables([("block_000/first", kinds[0]), ("block_000/second", kinds[1])])
    assert source_layers(named, "decoder") is None
    numbered = variables([("block_000/layer_000", kinds[0]), ("block_000/layer_001", kinds[1])])
    assert len(source_layers(numbered, "decoder") or []) == 2


def test_a_name_and_a_number_that_may_be_the_same_place_leave_the_order_open() -> None:
    names = variables([("block_000/layer_001", "SelfAttention"), ("block_000/ask", "EncDecAttention")])
    assert source_layers(names, "decoder") is None


# --- where the port finds them ---


def test_numbered_layers_are_one_pattern_for_all_blocks() -> None:
    stack = decoder(OWN, MEMORY, DENSE)
    names = variables(
        [(f"block_{block:03d}/layer_{i:03d}", kind) for block in range(2) for i, kind in enumerate(USUAL)]
    )
    patterns = list(layer_patterns(stack, names))
    assert [target for _, target, _ in patterns] == [f"block.{{block}}.layer.{i}" for i in range(3)]
    assert [spec for _, _, spec in patterns] == list(stack.layers)
    assert homes(stack, names) == {place.scope: place.path for place in stack.places}


def test_several_self_attentions_of_a_mesh_block_are_blocks_of_the_port() -> None:
    stack = decoder(OWN, DENSE, OWN, EXPERTS, num_blocks=3)
    names = variables([(place.scope, place.spec.kind) for place in stack.places])
    assert [target for _, target, _ in layer_patterns(stack, names)] == [
        "block.{block*2+0}.layer.0",
        "block.{block*2+0}.layer.1",
        "block.{block*2+1}.layer.0",
        "block.{block*2+1}.layer.1",
    ]
    assert homes(stack, names) == {place.scope: place.path for place in stack.places}


@pytest.mark.parametrize("config_knows", [True, False])
def test_named_layers_are_found_whether_the_config_names_them_or_not(config_knows: bool) -> None:
    given = ("attend", "ask+", "feed.forward")
    stack = decoder(OWN, MEMORY, DENSE, layer_names=given if config_knows else ())
    scopes = [(f"block_{block:03d}/{name}", block, i) for block in range(2) for i, name in enumerate(given)]
    names = variables([(scope, USUAL[i]) for scope, _, i in scopes])
    assert homes(stack, names) == {scope: f"block.{block}.layer.{i}" for scope, block, i in scopes}


def test_named_layers_of_blocks_that_the_model_lacks_keep_their_numbers() -> None:
    given = ("attend", "ask", "feed")
    scopes = [(f"block_{block:03d}/{name}", block, i) for block in range(4) for i, name in enumerate(given)]
    names = variables([(scope, USUAL[i]) for scope, _, i in scopes])
    found = homes(decoder(OWN, MEMORY, DENSE, num_blocks=2), names)
    assert found == {scope: f"block.{block}.layer.{i}" for scope, block, i in scopes}


def test_named_layers_of_several_pairs_are_found_where_the_config_names_them() -> None:
    given = ("attend", "", "again", "experts")
    stack = decoder(OWN, DENSE, OWN, EXPERTS, layer_names=given)
    names = variables([(place.scope, place.spec.kind) for place in stack.places])
    assert homes(stack, names) == {place.scope: place.path for place in stack.places}
    assert homes(stack, names)["block_001/layer_001"] == "block.2.layer.1"


def test_layers_without_blocks_are_a_pattern_each() -> None:
    stack = decoder(OWN, MEMORY, DENSE, num_blocks=3, block_scope=False)
    names = variables([(place.scope, place.spec.kind) for place in stack.places])
    assert homes(stack, names) == {f"layer_{i:03d}": f"block.{i // 3}.layer.{i % 3}" for i in range(9)}


@pytest.mark.parametrize("config_has_blocks", [True, False])
def test_layers_are_found_by_kind_and_order_where_the_config_expects_them_elsewhere(
    config_has_blocks: bool,
) -> None:
    stack = decoder(OWN, MEMORY, DENSE, block_scope=config_has_blocks)
    elsewhere = decoder(OWN, MEMORY, DENSE, block_scope=not config_has_blocks)
    names = variables([(place.scope, place.spec.kind) for place in elsewhere.places])
    assert homes(stack, names) == {place.scope: place.path for place in elsewhere.places}


def test_a_mesh_block_of_several_blocks_is_found_under_scopes_of_single_ones() -> None:
    stack = decoder(OWN, DENSE, OWN, EXPERTS, num_blocks=2)
    single = [
        (f"block_{block:03d}/layer_{i:03d}", kind)
        for block in range(4)
        for i, kind in enumerate(("SelfAttention", "MoE1D" if block % 2 else "DenseReluDense"))
    ]
    names = variables(single)
    assert homes(stack, names) == {
        f"block_{block:03d}/layer_{i:03d}": f"block.{block}.layer.{i}" for block in range(4) for i in range(2)
    }


def test_layers_of_other_kinds_are_left_where_the_config_has_them() -> None:
    stack = decoder(OWN, MEMORY, DENSE, num_blocks=1)
    names = variables(
        [
            ("layer_000", "SelfAttention"),
            ("layer_001", "DenseReluDense"),
            ("layer_002", "EncDecAttention"),
        ]
    )
    assert [pattern for pattern, _, _ in layer_patterns(stack, names)] == [
        re.escape(place.scope) for place in stack.places
    ]
    assert homes(stack, names) == {}


def test_without_variables_the_scopes_are_those_of_the_config() -> None:
    stack = decoder(TALKING, TALKING_MEMORY, DENSE)
    patterns = [pattern for pattern, _, _ in layer_patterns(stack, [])]
    for pattern, place in zip(patterns, stack.places, strict=False):
        assert re.fullmatch(pattern, place.scope)
