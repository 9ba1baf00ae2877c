"""The service's log, on stderr: lines for people, or JSON for machines."""

import logging

from pythonjsonlogger.json import JsonFormatter


def begin_logging(style: str, level: str) -> None:
    """Write the log from now on.

    Args:
        style: "text" or "json"; in JSON, a line about a call has its `request_id`.
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler()
    if style == "json":
        renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=renamed))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(request_id)s %(message)s", defaults={"request_id": "-"})
        )
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong with an image is told to whoever sent it
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
