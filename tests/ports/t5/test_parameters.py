"""Parameters read off the specs are those of the module that is built from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from porting.mapping import Shape
from porting.ports.t5.config import Config
from porting.ports.t5.parameters import parameter_shapes
from porting.ports.t5.port import PORT
from porting.ports.t5.presets import PRESETS, preset
from tests.conftest import RunPython
from tests.ports.t5.family import FAMILY, LEARNED, OWN, two_stacks
from tests.ports.t5.mesh_variables import SMALL, V1_1


def built(config: Config) -> list[tuple[str, Shape]]:
    with torch.device("meta"):
        model = PORT.build(config)
    return [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]


def shared_stacks() -> Config:
    """As bi_v1_shared: an encoder that is called "decoder" has the decoder's layers."""
    plain = two_stacks()
    assert plain.encoder and plain.decoder
    names = ("a", "b", "c")
    return replace(
        plain,
        encoder=replace(plain.encoder, scope="decoder", layer_names=(names[0], names[2])),
        decoder=replace(plain.decoder, layer_names=names),
    )


def shared_blocks() -> Config:
    """Named layers without scopes of blocks are the same in every block."""
    plain = two_stacks(replace(OWN, relative_attention_type="bias"))
    assert plain.encoder
    return replace(plain, encoder=replace(plain.encoder, layer_names=("a", "b"), block_scope=False))


CONFIGS: dict[str, Config] = {
    **FAMILY,
    "T5 1.0": SMALL,
    "T5 1.1": V1_1,
    "stacks that share": shared_stacks(),
    "blocks that share": shared_blocks(),
    "positions of their own": replace(LEARNED, shared_embedding=False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_names_order_and_shapes_are_the_modules(name: str) -> None:
    assert list(parameter_shapes(CONFIGS[name]).items()) == built(CONFIGS[name])


# Thousands of experts take PyTorch seconds, even without memory.
@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("switch-c")])
def test_presets_too(name: str) -> None:
    assert list(parameter_shapes(preset(name)).items()) == built(preset(name))


def test_blocks_that_share_have_one_set_of_parameters() -> None:
    names = [name for name in parameter_shapes(shared_blocks()) if name.startswith("encoder.block.")]
    assert names
    assert all(name.startswith("encoder.block.0.") for name in names)


def test_planning_imports_no_pytorch(run_python: RunPython) -> None:
    code = (
        "import sys, porting.convert, porting.cli.convert\n"
        "from porting.port import installed_ports\n"
        "from porting.ports.t5.presets import preset\n"
        "from porting.source import parameter_shapes\n"
        "parameter_shapes(installed_ports()['t5'], preset('t5.1.1.small'))\n"
        "print([m for m in ('torch', 'tensorflow', 'transformers', 'hypothesis') if m in sys.modules])"
    )
    result = run_python("-c", code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
