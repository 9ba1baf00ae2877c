"""Settings from flags, the environment and a file."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from encoder_service.rpc.config import Config
from gallery.errors import InvalidInputError
from tests.commands import run_here


def config(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with patch.dict(os.environ, environment):
        return run_here("encoder-service", "config", *flags)


def test_a_flag_overrides_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text('port = 1\ndrain_s = 2.5\nlog_format = "json"\nmetrics_port = 9\n')
    shown = config("--config", str(file), "--port", "3", LOOKALIKE_PORT="2", LOOKALIKE_DRAIN_S="4")
    assert shown.returncode == 0, shown.stderr
    values = json.loads(shown.stdout)
    assert (values["port"], values["drain_s"], values["log_format"], values["metrics_port"]) == (3, 4.0, "json", 9)
    assert values["host"] == "127.0.0.1"


def test_every_setting_can_be_given_as_flag_variable_and_key(tmp_path: Path) -> None:
    settings = {
        "store": "exact:",
        "encoder": "seed",
        "host": "localhost",
        "port": 1,
        "tls_cert_file": "c",
        "tls_key_file": "k",
        "tls_client_ca_file": "a",
        "tokens_file": "t",
        "insecure": True,
        "max_concurrent_calls": 2,
        "max_streams": 3,
        "metrics_host": "m",
        "metrics_port": 4,
        "traces": True,
        "log_format": "json",
        "log_level": "debug",
        "drain_s": 5.5,
    }
    (tmp_path / "service.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    )
    flags = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    variables = {f"LOOKALIKE_{name.upper()}": str(value) for name, value in settings.items()}
    for shown in (config("--config", str(tmp_path / "service.toml")), config(*flags), config(**variables)):
        assert shown.returncode == 0, shown.stderr
        assert {name: value for name, value in json.loads(shown.stdout).items() if name in settings} == settings


def test_secrets_are_masked() -> None:
    shown = config(QDRANT_API_KEY="open sesame")
    assert "sesame" not in shown.stdout
    assert json.loads(shown.stdout)["qdrant_api_key"] == "***"
    assert json.loads(config("--store", "https://me:sesame@host:6333").stdout)["store"] == "https://***@host:6333"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 1", "unknown setting 'prot': expected only store, encoder"),
        ("port = ", "expected a readable TOML file"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_3(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "service.toml").write_text(content)
    refused = config("--config", str(tmp_path / "service.toml"))
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert message in refused.stderr


@pytest.mark.parametrize(
    ("name", "choices"), [("log_format", "text, json"), ("log_level", "debug, info, warning, error")]
)
def test_a_wrong_choice_is_a_usage_error_that_lists_the_choices(tmp_path: Path, name: str, choices: str) -> None:
    (tmp_path / "service.toml").write_text(f'{name} = "loud"')
    in_file = config("--config", str(tmp_path / "service.toml"))
    as_flag = config(f"--{name.replace('_', '-')}", "loud")
    as_variable = config(**{f"LOOKALIKE_{name.upper()}": "loud"})
    for refused in (in_file, as_flag, as_variable):
        assert refused.returncode == 2
        assert choices in refused.stderr.replace("'", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tls_cert_file": Path("c")}, "expected both of --tls-cert-file and --tls-key-file"),
        ({"tls_client_ca_file": Path("c")}, "--tls-client-ca-file: expected --tls-cert-file"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Config(**settings)
