"""The parts that all commands share."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from importlib import import_module
try:
    import_module(sys.argv.pop(1) + ".cli").main()
except SystemExit:
    pass
print("LiteRT" if "ai_edge_litert" in sys.modules else "no LiteRT")
"""


def imports_litert(package: str, *arguments: str) -> bool:
    """Run a package's command, and return whether it imported LiteRT."""
    done = subprocess.run([sys.executable, "-c", RUN, package, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1] == "LiteRT"


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("ingest", ("list", "--store", "edge:FOLDER")),
        ("ingest", ("plan", "--images", "1000")),
        ("encoder_service", ("health", "--address", "127.0.0.1:1")),
        ("encoder_service", ("config",)),
    ],
)
def test_commands_that_encode_nothing_do_not_import_litert(
    package: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    assert not imports_litert(package, *(argument.replace("FOLDER", str(tmp_path)) for argument in arguments))


def test_a_command_that_encodes_imports_litert(tmp_path: Path) -> None:
    stop = ("--tokens-file", str(tmp_path / "missing"))  # ends `serve` with an error once its encoder is loaded
    assert imports_litert("encoder_service", "serve", "--store", f"edge:{tmp_path}", "--encoder", "seed", *stop)
