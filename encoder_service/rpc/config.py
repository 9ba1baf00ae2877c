"""The settings of the service, in one place.

`encoder-service serve` makes a flag, an environment variable and a key of its TOML file from each field.
"""

import os
import re
import sys
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path

from encoder_service.encoder import DEFAULT_ENCODER
from encoder_service.limits import LIMITS, Limits
from encoder_service.rpc.addresses import is_local
from gallery import DEFAULT_STORE
from gallery.errors import InvalidInputError

_MASK = "***"
# Pattern of the variable NAME_PORT that Kubernetes sets for each Service of a namespace.
_KUBERNETES_VALUE = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


class LogFormat(StrEnum):
    """Format of the log's lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe lines that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _setting(env: str, text: str, minimum: int | None = None, maximum: int | None = None) -> dict[str, object]:
    return {"help": text, "env": f"LOOKALIKE_{env}", "min": minimum, "max": maximum}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in force for one service.

    Each field's metadata has its `help`, its environment variable `env`, and the bounds `min` and `max`, None for no
    bound. The field `store` has no metadata, because all commands share its option.

    Raises:
        InvalidInputError: Settings contradict each other, or would expose the service to other machines unprotected.
    """

    store: str = DEFAULT_STORE
    encoder: str = field(
        default=DEFAULT_ENCODER,
        metadata=_setting("ENCODER", "Name or folder of the encoder for Encode and Decode."),
    )
    host: str = field(
        default="127.0.0.1",
        metadata=_setting(
            "HOST",
            "Address to listen on: a name, IPv4, IPv6 or unix:PATH. "
            "Addresses that other machines can reach require TLS and tokens, or --insecure.",
        ),
    )
    port: int = field(default=50051, metadata=_setting("PORT", "Port to listen on; 0 picks a free one.", 0, 65535))
    tls_cert_file: Path | None = field(
        default=None, metadata=_setting("TLS_CERT_FILE", "PEM file of the certificate and its chain.")
    )
    tls_key_file: Path | None = field(
        default=None, metadata=_setting("TLS_KEY_FILE", "PEM file of the certificate's key.")
    )
    tls_client_ca_file: Path | None = field(
        default=None,
        metadata=_setting(
            "TLS_CLIENT_CA_FILE", "PEM file of the authority that must have signed each client's certificate (mTLS)."
        ),
    )
    tokens_file: Path | None = field(
        default=None,
        metadata=_setting("TOKENS_FILE", "File of accepted tokens, with lines of `read TOKEN` or `write TOKEN`."),
    )
    insecure: bool = field(
        default=False, metadata=_setting("INSECURE", "Accept unencrypted calls from anyone who can reach the port.")
    )
    max_concurrent_calls: int = field(
        default=LIMITS.max_concurrent_call_count,
        metadata=_setting(
            "MAX_CONCURRENT_CALLS",
            "Maximum concurrent calls, queued ones included; further calls are rejected.",
            1,
            1000,
        ),
    )
    max_streams: int = field(
        default=LIMITS.max_concurrent_stream_count,
        metadata=_setting("MAX_STREAMS", "Maximum concurrent streams; further streams are rejected.", 1, 1000),
    )
    http_port: int | None = field(
        default=None,
        metadata=_setting(
            "HTTP_PORT",
            "Port of --host for the search page and for JSON over HTTP; neither if not given. 0 picks a free one.",
            0,
            65535,
        ),
    )
    http_origin: str | None = field(
        default=None,
        metadata=_setting(
            "HTTP_ORIGIN", "Origin of another web page that may call the service, such as https://example.org (CORS)."
        ),
    )
    metrics_host: str = field(default="127.0.0.1", metadata=_setting("METRICS_HOST", "Address of the metrics."))
    metrics_port: int | None = field(
        default=None,
        metadata=_setting("METRICS_PORT", "Port where Prometheus reads metrics; no metrics if not given.", 0, 65535),
    )
    traces: bool = field(
        default=False, metadata=_setting("TRACES", "Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT.")
    )
    log_format: LogFormat = field(
        default=LogFormat.TEXT, metadata=_setting("LOG_FORMAT", "Format of the log on stderr.")
    )
    log_level: LogLevel = field(
        default=LogLevel.INFO,
        metadata=_setting("LOG_LEVEL", "Least severe lines that are logged; debug logs every call."),
    )
    drain_s: float = field(
        default=8.0, metadata=_setting("DRAIN_S", "Seconds that calls in flight may take to finish at shutdown.", 0)
    )

    def __post_init__(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise InvalidInputError("expected both of --tls-cert-file and --tls-key-file, got one")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise InvalidInputError("--tls-client-ca-file: expected --tls-cert-file and --tls-key-file with it")
        if self.http_port is not None and self.host.startswith("unix:"):
            raise InvalidInputError(f"--http-port: expected --host to be a name or an address, got {self.host}")
        authenticates = self.tokens_file or self.tls_client_ca_file
        if not (is_local(self.host) or self.insecure or (self.tls_cert_file and authenticates)):
            raise InvalidInputError(
                f"--host {self.host} exposes the service to other machines: expected --tls-cert-file, --tls-key-file "
                "and --tokens-file (or --tls-client-ca-file) with it, or --insecure to accept anyone"
            )

    @property
    def limits(self) -> Limits:
        """The limits in force for a service with these settings."""
        return Limits(max_concurrent_call_count=self.max_concurrent_calls, max_concurrent_stream_count=self.max_streams)

    def shown(self) -> dict[str, object]:
        """Return the settings in a form that can be printed as JSON, with secrets masked."""
        values = {name: getattr(self, name) for name in (setting.name for setting in fields(self))}
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        shown["store"] = re.sub(r"//[^/@]*@", f"//{_MASK}@", self.store)
        if os.environ.get("QDRANT_API_KEY"):
            shown["qdrant_api_key"] = _MASK
        return shown


def ignore_kubernetes_variables() -> None:
    """Remove the variables that Kubernetes sets for a Service named like this program, and say so on stderr.

    For a Service `lookalike`, containers get LOOKALIKE_PORT=tcp://10.0.0.1:50051, which is not a setting.
    """
    for name, value in list(os.environ.items()):
        if name.startswith("LOOKALIKE_") and _KUBERNETES_VALUE.fullmatch(value):
            del os.environ[name]
            if name in _variables():
                print(f"{name}={value} is ignored: it looks as if Kubernetes had set it for a Service", file=sys.stderr)


def _variables() -> set[str]:
    return {str(setting.metadata["env"]) for setting in fields(Config) if setting.metadata}
