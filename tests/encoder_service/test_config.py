"""Settings from flags, the environment and a file."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from encoder_service.rpc.config import Config
from gallery.errors import InvalidInputError
from tests.commands import BIN


def config(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "encoder-service"), "config", *flags]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text('port = 1\ndrain_s = 2.5\nlog_format = "json"\nmetrics_port = 9\n')
    shown = config("--config", str(file), "--port", "3", LOOKALIKE_PORT="2", LOOKALIKE_DRAIN_S="4")
    assert shown.returncode == 0, shown.stderr
    values = json.loads(shown.stdout)
    assert (values["port"], values["drain_s"], values["log_format"], values["metrics_port"]) == (3, 4.0, "json", 9)
    assert values["host"] == "127.0.0.1"


def test_keys_of_a_server_are_not_shown(tmp_path: Path) -> None:
    shown = config(QDRANT_API_KEY="open sesame")
    assert "sesame" not in shown.stdout
    assert json.loads(shown.stdout)["qdrant_api_key"] == "***"
    assert json.loads(config("--store", "https://me:sesame@host:6333").stdout)["store"] == "https://***@host:6333"


@pytest.mark.parametrize(
    ("content", "says"),
    [("prot = 1", "no setting is called prot"), ("port = ", "expected a TOML file"), (None, "No such file")],
)
def test_a_bad_file_is_said_in_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "service.toml").write_text(content)
    refused = config("--config", str(tmp_path / "service.toml"))
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert says in refused.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"log_format": "xml"}, "--log-format: expected one of text, json, got 'xml'"),
        ({"log_level": "loud"}, "--log-level: expected one of debug"),
        ({"tls_cert_file": Path("c")}, "expected both of --tls-cert-file and --tls-key-file"),
        ({"tls_client_ca_file": Path("c")}, "--tls-client-ca-file: expected --tls-cert-file"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        Config(**settings)
