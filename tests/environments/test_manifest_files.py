"""The manifests as they lie in the base folder, without what kubectl puts together from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.environments.pods import KUBERNETES
from tests.environments.test_manifests import NEWEST, OLDEST, validate

FILES = [
    path
    for path in sorted((KUBERNETES / "base").rglob("*.yaml"))
    if path.name not in ("kustomization.yaml", "run.yaml")
]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_manifest_follows_its_schema(path: Path, version: str) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        validate(manifest, version)
