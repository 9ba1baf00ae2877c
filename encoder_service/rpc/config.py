"""The settings of the service.

Each field of `Config` becomes a flag of `encoder-service serve`, an environment variable, and a key of the TOML file.
"""

import os
import re
import socket
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
# Value of the environment variable NAME_PORT that Kubernetes sets in each container for a Service called NAME.
_KUBERNETES_VALUE = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


class LogFormat(StrEnum):
    """Format of the log lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """Minimum severity of the lines that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _setting(env: str, text: str, minimum: int | None = None, maximum: int | None = None) -> dict[str, object]:
    return {"help": text, "env": f"LOOKALIKE_{env}", "min": minimum, "max": maximum}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one service.

    The metadata of each field has its help text `help`, its environment variable `env`, and its bounds `min` and `max`,
    which are None if the value is not bounded. The field `store` has no metadata, because other commands have the same
    option, `terminal.StoreOption`.

    Raises:
        InvalidInputError: Settings contradict each other, or would expose the service to other machines unprotected.
    """

    store: str = DEFAULT_STORE
    encoder: str = field(
        default=DEFAULT_ENCODER,
        metadata=_setting("ENCODER", "Name or folder of the encoder that answers Encode and Decode."),
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
        default=None, metadata=_setting("TLS_CERT_FILE", "PEM file with the service's certificate and its chain.")
    )
    tls_key_file: Path | None = field(
        default=None, metadata=_setting("TLS_KEY_FILE", "PEM file with the private key of the certificate.")
    )
    tls_client_ca_file: Path | None = field(
        default=None,
        metadata=_setting(
            "TLS_CLIENT_CA_FILE",
            "PEM file of a certificate authority. Clients must have a certificate that it signed (mTLS).",
        ),
    )
    tokens_file: Path | None = field(
        default=None,
        metadata=_setting("TOKENS_FILE", "File with accepted tokens, in lines of `read TOKEN` or `write TOKEN`."),
    )
    insecure: bool = field(
        default=False, metadata=_setting("INSECURE", "Accept unencrypted calls from anyone who can reach the port.")
    )
    workers: int = field(
        default=1,
        metadata=_setting(
            "WORKERS",
            "Number of processes that answer calls on the same port. More than 1 needs a Qdrant server as --store. "
            "Limits such as --max-concurrent-calls apply to each process.",
            1,
        ),
    )
    max_concurrent_calls: int = field(
        default=LIMITS.max_concurrent_call_count,
        metadata=_setting(
            "MAX_CONCURRENT_CALLS",
            "Maximum concurrent calls of each worker, including queued calls; further calls are rejected.",
            1,
            1000,
        ),
    )
    max_streams: int = field(
        default=LIMITS.max_concurrent_stream_count,
        metadata=_setting(
            "MAX_STREAMS", "Maximum concurrent streams of each worker; further streams are rejected.", 1, 1000
        ),
    )
    compact: bool = field(
        default=True,
        metadata=_setting(
            "COMPACT", "Index galleries anew, beside the searches, once many images have been added or deleted."
        ),
    )
    http_port: int | None = field(
        default=None,
        metadata=_setting(
            "HTTP_PORT",
            "Port on --host for the search page, JSON and gRPC-Web over HTTP. Default: no HTTP. 0 picks a free port.",
            0,
            65535,
        ),
    )
    http_origin: str | None = field(
        default=None,
        metadata=_setting(
            "HTTP_ORIGIN",
            "Origin of another web page whose scripts may call the service, such as https://example.org (CORS).",
        ),
    )
    metrics_host: str = field(
        default="127.0.0.1", metadata=_setting("METRICS_HOST", "Address to listen on for Prometheus.")
    )
    metrics_port: int | None = field(
        default=None,
        metadata=_setting(
            "METRICS_PORT", "Port to listen on for Prometheus. Default: metrics are not served.", 0, 65535
        ),
    )
    traces: bool = field(
        default=False, metadata=_setting("TRACES", "Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT.")
    )
    log_format: LogFormat = field(
        default=LogFormat.TEXT, metadata=_setting("LOG_FORMAT", "Format of the log on stderr.")
    )
    log_level: LogLevel = field(
        default=LogLevel.INFO,
        metadata=_setting("LOG_LEVEL", "Minimum severity of the lines that are logged; debug logs every call."),
    )
    drain_s: float = field(
        default=8.0, metadata=_setting("DRAIN_S", "Maximum seconds to let calls in flight finish.", 0)
    )

    def __post_init__(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise InvalidInputError("expected both of --tls-cert-file and --tls-key-file, got one")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise InvalidInputError("--tls-client-ca-file: expected --tls-cert-file and --tls-key-file with it")
        if self.http_port is not None and self.host.startswith("unix:"):
            raise InvalidInputError(f"--http-port: expected --host to be a name or an address, got {self.host}")
        if self.workers > 1:
            self._check_port_can_be_shared()
        authenticates = self.tokens_file or self.tls_client_ca_file
        if not (is_local(self.host) or self.insecure or (self.tls_cert_file and authenticates)):
            raise InvalidInputError(
                f"--host {self.host} exposes the service to other machines: expected --tls-cert-file, --tls-key-file "
                "and --tokens-file (or --tls-client-ca-file) with it, or --insecure to accept anyone"
            )

    def _check_port_can_be_shared(self) -> None:
        if not self.store.startswith(("http:", "https:")):
            raise InvalidInputError(
                f"--workers {self.workers}: expected a Qdrant server as --store, because only one process can open a "
                f"local store, got {self.store}"
            )
        if self.host.startswith("unix:"):
            raise InvalidInputError(f"--workers: expected --host to be a name or an address, got {self.host}")
        if self.http_port == self.port != 0:
            raise InvalidInputError(f"--http-port: expected another port than --port, got {self.port} for both")
        if not hasattr(socket, "SO_REUSEPORT"):
            raise InvalidInputError("--workers: expected a system with SO_REUSEPORT, such as Linux: use --workers 1")

    @property
    def limits(self) -> Limits:
        """The limits of a service with these settings."""
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
    """Remove environment variables that Kubernetes sets and that look like settings, and say so on stderr.

    If the namespace has a Service called `lookalike`, Kubernetes sets variables such as
    LOOKALIKE_PORT=tcp://10.0.0.1:50051 in every container.
    """
    for name, value in list(os.environ.items()):
        if name.startswith("LOOKALIKE_") and _KUBERNETES_VALUE.fullmatch(value):
            del os.environ[name]
            if name in _variables():
                print(f"{name}={value} is ignored: it looks as if Kubernetes had set it for a Service", file=sys.stderr)


def _variables() -> set[str]:
    return {str(setting.metadata["env"]) for setting in fields(Config) if setting.metadata}
