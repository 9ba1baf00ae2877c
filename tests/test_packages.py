"""Each package as a whole: its public names, and the modules that importing it loads."""

import importlib
import inspect
import subprocess
import sys

import pytest

PACKAGES = ["gallery", "encoder_service", "ingest", "training"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_of_a_package_is_exported_in_order(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from {name} import *", namespace)
    package = importlib.import_module(name)
    public = [key for key, value in vars(package).items() if not key.startswith("_") and not inspect.ismodule(value)]
    assert package.__all__ == sorted(public, key=lambda key: (not key.isupper(), key))
    assert set(package.__all__) <= namespace.keys()


@pytest.mark.parametrize(
    "module", ["gallery", "encoder_service.rpc.server", "encoder_service.client", "encoder_service.cli", "ingest.cli"]
)
def test_importing_a_module_does_not_load_tensorflow_or_the_qdrant_client(module: str) -> None:
    assert loaded_by(module, "tensorflow", "keras", "qdrant_client") == []


def test_importing_the_errors_loads_neither_grpc_nor_pillow() -> None:
    assert loaded_by("encoder_service.errors", "grpc", "PIL", "ai_edge_litert") == []


def loaded_by(module: str, *candidates: str) -> list[str]:
    script = f"import {module}, sys; print(*[name for name in {candidates!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()
