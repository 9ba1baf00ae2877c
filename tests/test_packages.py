"""What holds for the packages as wholes."""

import importlib
import subprocess
import sys

import pytest

import gallery


def test_the_public_names_of_gallery_are_there() -> None:
    for name in gallery.__all__:
        assert hasattr(gallery, name)


@pytest.mark.parametrize(
    "module", ["gallery", "encoder_service.rpc.server", "encoder_service.client", "encoder_service.cli", "ingest.cli"]
)
def test_importing_loads_neither_tensorflow_nor_a_store_that_is_not_used(module: str) -> None:
    importlib.import_module(module)
    script = f"import {module}, sys; print([m for m in ('tensorflow', 'keras', 'qdrant_client') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
