"""All fuzz targets by name."""

from __future__ import annotations

from tests.fuzz import bundles, configs, files, manifests, t5x

TARGETS = {
    target.name: target for module in (bundles, configs, files, manifests, t5x) for target in module.TARGETS
}
