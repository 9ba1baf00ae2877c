"""The service's log on stderr: text for people, or JSON for machines."""

import logging
import os

from pythonjsonlogger.json import JsonFormatter

from encoder_service.rpc.config import LogFormat, LogLevel


def begin_logging(style: LogFormat, level: LogLevel) -> None:
    """Configure the logging of this process.

    Args:
        style: Text or JSON. A line about a call carries its `request_id`.
        level: The least severe lines that are logged.
    """
    handler = logging.StreamHandler()
    if style is LogFormat.JSON:
        renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=renamed))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(request_id)s %(message)s", defaults={"request_id": "-"})
        )
    # otherwise gRPC's core logs failed handshakes and rejected calls itself
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # gRPC logs clients' mistakes as tracebacks that quote their input. `CallInterceptor` logs all other errors.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # the client that sent a bad image receives an error instead
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
