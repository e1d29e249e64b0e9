"""Parameters that several modules share: Mesh makes one variable for one name, whoever asks for it.

An encoder that is named "decoder" shares the decoder's layers (`bi_v1_shared`), and named layers without
scopes of blocks are the same in every block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from porting.ports.t5.architecture import Architecture


def share_parameters(model: nn.Module, architecture: Architecture) -> None:
    """Let modules that are one in the original hold the same parameters."""
    owners: dict[str, nn.Module] = {}
    for name, stack in architecture.stacks.items():
        module = model.get_submodule(name)
        for place in stack.places:
            layer = module.get_submodule(place.path)
            scope = f"{stack.scope}/{place.scope}"
            _share(owners, f"{scope}/norm", layer.get_submodule("layer_norm"))
            kind = place.spec.kind
            _share(owners, f"{scope}/{kind}", layer.get_submodule(architecture.module_name(place.spec)))
        _share(owners, f"{stack.scope}/norm", module.get_submodule("final_layer_norm"))
        _share(owners, f"{stack.scope}/embedding", module.get_submodule("embed_tokens"))
        if stack.positions:
            positions = "shared" if architecture.shares_positions else stack.scope
            _share(owners, f"{positions}/positions", module.get_submodule("embed_positions"))


def _share(owners: dict[str, nn.Module], key: str, module: nn.Module) -> None:
    """Give a module the parameters of the first one under the same key."""
    owner = owners.setdefault(key, module)
    if owner is module:
        return
    for name, parameter in owner.named_parameters():
        holder, _, leaf = name.rpartition(".")
        try:
            target = module.get_submodule(holder)
        except AttributeError:
            continue
        own = getattr(target, leaf, None)
        if own is not None and own.shape == parameter.shape:
            setattr(target, leaf, parameter)
