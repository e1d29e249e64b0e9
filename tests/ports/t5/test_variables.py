"""Mesh's variables, made from configs alone, against the rules that read them and a list made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from porting.errors import ConfigError
from porting.inverse import invert_plan
from porting.mapping import make_plan
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec, TalkingHeadsSpec
from porting.ports.t5.config import Config
from porting.ports.t5.from_gin import config_from_gin
from porting.ports.t5.located import located
from porting.ports.t5.original_format import MESH
from porting.ports.t5.parameters import parameter_shapes
from porting.ports.t5.port import PORT
from porting.ports.t5.presets import PRESETS, preset, with_layers
from porting.ports.t5.rules import is_weight, rules
from porting.ports.t5.variables import variables
from tests.ports.t5.family import DENSE, FAMILY, LEARNED, MEMORY, OWN, SPANS, two_stacks
from tests.ports.t5.mesh_variables import SMALL, V1_1, mesh_shapes

CONFIGS: dict[str, Config] = {
    **FAMILY,
    **{name: preset(name) for name in PRESETS if "switch" not in name and "long" not in name},
    "positions of their own": replace(LEARNED, shared_embedding=False, source_vocab_size=50),
}


@pytest.mark.parametrize("config", [SMALL, V1_1], ids=["1.0", "1.1"])
def test_a_plain_t5_has_the_variables_that_were_listed_by_hand(config: Config) -> None:
    listed = {name.replace("final_layer_norm", "rms_norm").replace("/layer_norm/", "/rms_norm/"): shape
              for name, shape in mesh_shapes(config).items() if is_weight(name)}  # type: ignore[arg-type]  # fmt: skip
    assert variables(config) == listed


@pytest.mark.parametrize("name", CONFIGS)
def test_the_rules_claim_every_one_of_them_and_back(name: str) -> None:
    config = CONFIGS[name]
    shapes = variables(config)
    plan = make_plan(rules(config, list(shapes)), shapes, parameter_shapes(config))
    back = invert_plan(plan)
    assert {entry.target: entry.target_shape for entry in back.entries} == shapes
    assert sorted(n for entry in back.entries for n in entry.sources) == sorted(parameter_shapes(config))


def with_distance(architecture: Architecture, distance: int) -> Architecture:
    """As it is, but with another largest distance of relative positions."""
    for kind in (AttentionSpec, TalkingHeadsSpec):
        architecture = with_layers(architecture, kind, relative_attention_max_distance=distance)
    return architecture


@pytest.mark.parametrize("name", CONFIGS)
def test_the_gin_text_says_the_config_again(name: str, tmp_path: Path) -> None:
    config = with_distance(CONFIGS[name].architecture, 128)
    shapes = variables(config)
    (tmp_path / "operative_config.gin").write_text(MESH.files(config, list(shapes))["operative_config.gin"])
    assert config_from_gin(tmp_path / "operative_config.gin", shapes)[0] == config


def test_sentinels_are_counted_in_the_vocabulary_before_padding(tmp_path: Path) -> None:
    """Mesh pads 32100 ids to 32128 itself, and counts sentinels from what it was given."""
    config = replace(with_distance(SPANS, 128), vocab_size=32128, first_sentinel_id=32000)
    shapes = variables(config)
    text = MESH.files(config, list(shapes))["operative_config.gin"]
    assert "relative_position_spans.num_sentinels = 100\n" in text
    assert "Unitransformer.vocab_divisor = 128\n" in text
    (tmp_path / "operative_config.gin").write_text(text)
    assert config_from_gin(tmp_path / "operative_config.gin", shapes)[0].first_sentinel_id == 32000


@pytest.mark.parametrize("name", ["spans", "talking heads", "language model"])
def test_what_mesh_cannot_be_told_is_refused(name: str) -> None:
    """Buckets end at 128 positions in Mesh, whatever the config says."""
    config = with_distance(FAMILY[name], 100)
    with pytest.raises(ConfigError, match="relative_attention_max_distance") as caught:
        MESH.files(config, list(variables(config)))
    assert {problem.found for problem in caught.value.problems} == {"100"}
    unused = with_distance(LEARNED, 100)
    assert MESH.files(unused, list(variables(unused)))


def test_where_layers_lie_is_found_by_the_variables() -> None:
    there = with_layers(SMALL.architecture, AttentionSpec, combine_dims=False)
    assert there.encoder
    there = replace(there, encoder=replace(there.encoder, layer_names=("own", "inner")))
    shapes = variables(there)
    assert shapes != variables(SMALL)
    assert variables(located(SMALL, shapes)) == shapes
    assert located(SMALL, variables(SMALL)).architecture == SMALL.architecture


def test_variables_of_another_model_change_nothing() -> None:
    other = two_stacks(OWN, replace(MEMORY, shared_kv=True))
    assert located(SMALL, variables(other)) is SMALL
    assert located(SMALL, {"embedding": (3, 4)}) is SMALL
    # As many layers, repeated otherwise: one block of unlike layers is not two blocks alike.
    plain = two_stacks()
    assert plain.encoder
    unlike = (*plain.encoder.layers, OWN, replace(DENSE, d_ff=21))
    mixed = replace(plain, encoder=replace(plain.encoder, layers=unlike, num_blocks=1))
    assert located(mixed, variables(plain)) is mixed


def test_the_port_says_what_mesh_restores() -> None:
    assert PORT.originals["mesh"] is MESH
    step = MESH.more["global_step"]
    assert (step.dtype.name, step.shape, int(step)) == ("int64", (), 0)
