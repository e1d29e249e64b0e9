"""All fuzz targets by name."""

from __future__ import annotations

from tests.fuzz import bundles, configs, files, manifests

TARGETS = {
    target.name: target for module in (bundles, configs, files, manifests) for target in module.TARGETS
}
