"""Everything about the service that can be set, in one place.

Each field is a flag, an environment variable and a line of a TOML file, in this order of precedence.
"""

import inspect
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from encoder_service.encoder import DEFAULT_ENCODER
from encoder_service.limits import LIMITS, Limits
from encoder_service.terminal import StoreOption
from gallery import DEFAULT_STORE
from gallery.errors import InvalidInputError

_MASK = "***"
_LOG_FORMATS = ("text", "json")
_LOG_LEVELS = ("debug", "info", "warning", "error")


def _option(variable: str, text: str, **more: Any) -> Any:
    return typer.Option(envvar=f"LOOKALIKE_{variable}", help=text, **more)


@dataclass(frozen=True, slots=True)
class Config:
    """What is in force for one service.

    Raises:
        InvalidInputError: Settings contradict each other, or would open the service to strangers unasked.
    """

    store: StoreOption = DEFAULT_STORE
    encoder: Annotated[str, _option("ENCODER", "Encoder of Encode and Decode, by name or its folder's path.")] = (
        DEFAULT_ENCODER
    )
    host: Annotated[
        str, _option("HOST", "Address to listen on; one that others reach needs TLS and tokens, or --insecure.")
    ] = "127.0.0.1"
    port: Annotated[int, _option("PORT", "Port to listen on; 0 picks a free one.", min=0, max=65535)] = 50051
    tls_cert_file: Annotated[Path | None, _option("TLS_CERT_FILE", "PEM of the certificate and its chain.")] = None
    tls_key_file: Annotated[Path | None, _option("TLS_KEY_FILE", "PEM of the certificate's key.")] = None
    tls_client_ca_file: Annotated[
        Path | None, _option("TLS_CLIENT_CA_FILE", "PEM of the authority whose clients alone may call (mTLS).")
    ] = None
    tokens_file: Annotated[
        Path | None, _option("TOKENS_FILE", "Who may call: lines of `read TOKEN` or `write TOKEN`.")
    ] = None
    insecure: Annotated[bool, _option("INSECURE", "Let anybody who reaches the port call, unencrypted.")] = False
    max_concurrent_calls: Annotated[
        int,
        _option(
            "MAX_CONCURRENT_CALLS",
            "Calls under way at once, those in line counted; more are turned away.",
            min=1,
            max=1000,
        ),
    ] = LIMITS.max_concurrent_call_count
    max_streams: Annotated[int, _option("MAX_STREAMS", "Streams under way at once.", min=1, max=1000)] = (
        LIMITS.max_concurrent_stream_count
    )
    metrics_host: Annotated[str, _option("METRICS_HOST", "Address of the metrics.")] = "127.0.0.1"
    metrics_port: Annotated[
        int | None, _option("METRICS_PORT", "Port where Prometheus reads metrics; none if not given.", min=0, max=65535)
    ] = None
    traces: Annotated[
        bool, _option("TRACES", "Send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says.")
    ] = False
    log_format: Annotated[str, _option("LOG_FORMAT", "How the log is written to stderr: text or json.")] = "text"
    log_level: Annotated[str, _option("LOG_LEVEL", "What is logged: debug (every call), info, warning or error.")] = (
        "info"
    )
    drain_s: Annotated[
        float, _option("DRAIN_S", "Seconds that calls under way are given when the service is to end.", min=0)
    ] = 10.0

    def __post_init__(self) -> None:
        for name, allowed in (("log_format", _LOG_FORMATS), ("log_level", _LOG_LEVELS)):
            if getattr(self, name) not in allowed:
                raise InvalidInputError(
                    f"--{name.replace('_', '-')}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise InvalidInputError("expected both of --tls-cert-file and --tls-key-file, got one")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise InvalidInputError("--tls-client-ca-file: expected --tls-cert-file and --tls-key-file with it")
        known = self.tokens_file or self.tls_client_ca_file
        if not (_is_loopback(self.host) or self.insecure or (self.tls_cert_file and known)):
            raise InvalidInputError(
                f"--host {self.host} lets others reach the service: expected --tls-cert-file, --tls-key-file and "
                "--tokens-file (or --tls-client-ca-file) with it, or --insecure to let anybody in"
            )

    @property
    def limits(self) -> Limits:
        """The limits in force for a service with these settings."""
        return Limits(max_concurrent_call_count=self.max_concurrent_calls, max_concurrent_stream_count=self.max_streams)

    def shown(self) -> dict[str, object]:
        """Return what is in force as it may be printed, secrets masked."""
        values = {name: getattr(self, name) for name in (field.name for field in fields(self))}
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        shown["store"] = re.sub(r"//[^/@]*@", f"//{_MASK}@", self.store)
        if os.environ.get("QDRANT_API_KEY"):
            shown["qdrant_api_key"] = _MASK
        return shown


def configured(command: Callable[[Config], None]) -> Callable[..., None]:
    """Give a command an option for each field of `Config`, and `--config FILE`; it is called with the result."""
    hints = get_type_hints(Config, include_extras=True)

    def run(**given: Any) -> None:
        del given["config"]
        command(Config(**given))

    parameters = [
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_ConfigOption),
        *(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hint)
            for field in fields(Config)
            for hint in (hints[field.name],)
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what Typer makes options of
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def _read_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take the values of a TOML file as defaults."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"--config {path}: expected a TOML file that can be read: {error}") from error
    unknown = sorted(values.keys() - {field.name for field in fields(Config)})
    if unknown:
        known = ", ".join(field.name for field in fields(Config))
        raise InvalidInputError(f"--config {path}: no setting is called {unknown[0]}; expected some of {known}")
    context.default_map = {**(context.default_map or {}), **values}
    return path


_ConfigOption = Annotated[
    Path | None,
    typer.Option(
        envvar="LOOKALIKE_CONFIG",
        help="TOML file of settings, named as these flags with _ for -; flags and the environment win.",
        callback=_read_file,
        is_eager=True,
    ),
]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
