"""Configure the service's log on stderr: text for people, or JSON for machines."""

import logging
import os

from pythonjsonlogger.json import JsonFormatter

from encoder_service.rpc.config import LogFormat, LogLevel


def begin_logging(style: LogFormat, level: LogLevel, with_process: bool = False) -> None:
    """Configure the logging of this process.

    Args:
        style: Text or JSON. A line about a call has the call's `request_id`.
        level: Minimum severity of the lines that are logged.
        with_process: Begin each message with the name of this process, such as "worker-1"; in JSON, add the field
            `process`.
    """
    handler = logging.StreamHandler()
    process = "%(processName)s " if with_process else ""
    if style is LogFormat.JSON:
        renamed = {"asctime": "time", "levelname": "level", "name": "logger", "processName": "process"}
        handler.setFormatter(
            JsonFormatter(f"%(asctime)s %(levelname)s %(name)s {process}%(message)s", rename_fields=renamed)
        )
    else:
        handler.setFormatter(
            logging.Formatter(
                f"%(asctime)s %(levelname)s %(request_id)s {process}%(message)s", defaults={"request_id": "-"}
            )
        )
    # stop gRPC's C core from logging failed handshakes and rejected calls
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # stop gRPC's Python code from logging malformed requests as tracebacks that quote them; `CallInterceptor` logs
    # errors of the service itself
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    # stop Pillow from logging errors in images: the client that sent the image gets the error in the answer
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
