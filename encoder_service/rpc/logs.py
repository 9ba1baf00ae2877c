"""Configure the service's log on stderr: text for people, or JSON for machines."""

import logging
import os

from pythonjsonlogger.json import JsonFormatter

from encoder_service.rpc.config import LogFormat, LogLevel


def begin_logging(style: LogFormat, level: LogLevel) -> None:
    """Configure the logging of this process.

    Args:
        style: Text or JSON. A line about a call has the call's `request_id`.
        level: Minimum severity of the lines that are logged.
    """
    handler = logging.StreamHandler()
    if style is LogFormat.JSON:
        renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=renamed))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(request_id)s %(message)s", defaults={"request_id": "-"})
        )
    # stop gRPC's C core from logging failed handshakes and rejected calls
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # stop gRPC's Python code from logging malformed requests as tracebacks that quote them; `CallInterceptor` logs
    # errors of the service itself
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    # stop Pillow from logging errors in images: the client that sent the image gets the error in the answer
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
