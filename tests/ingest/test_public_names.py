"""The public names of `ingest`, and the imports that they cost."""

import subprocess
import sys

import pytest

import ingest
from ingest.loading.build import load_and_publish
from ingest.sources import open_source

RUN_AND_LIST_IMPORTS = """
import sys
from ingest.cli import main
sys.argv = ["ingest", *sys.argv[1:]]
try:
    main()
finally:
    print([name for name in ("ai_edge_litert", "tensorflow", "qdrant_client") if name in sys.modules], file=sys.stderr)
"""


def test_the_public_names_are_imported_on_first_use() -> None:
    assert ingest.open_source is open_source
    assert ingest.load_and_publish is load_and_publish
    for name in ingest.__all__:
        assert getattr(ingest, name).__name__ == name
    assert sorted(ingest.__all__) == ingest.__all__
    with pytest.raises(AttributeError, match="module 'ingest' has no attribute 'nothing'"):
        ingest.nothing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "arguments", [("--help",), ("list", "--help"), ("list",), ("plan", "--images", "100M")], ids=" ".join
)
def test_commands_that_encode_nothing_do_not_import_litert(store_url: str, arguments: tuple[str, ...]) -> None:
    store = ("--store", store_url) if arguments == ("list",) else ()
    command = [sys.executable, "-c", RUN_AND_LIST_IMPORTS, *arguments, *store]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_reading_a_source_does_not_import_litert() -> None:
    script = "from ingest import open_source; import sys; print('ai_edge_litert' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
