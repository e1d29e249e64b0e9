"""All fuzz targets by name."""

from __future__ import annotations

from tests.fuzz import bundles, configs, files, manifests, t5x, t5x_configs

_MODULES = (bundles, configs, files, manifests, t5x, t5x_configs)
TARGETS = {target.name: target for module in _MODULES for target in module.TARGETS}
