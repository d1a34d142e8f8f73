"""The log of a server process: one JSON object a line, on stderr."""

import json
import logging
import sys
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """A record as JSON; one whose message is an object itself (``access.py``) is merged into it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, ASCII only."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        message = record.getMessage()
        if message.startswith('{"event"'):
            return json.dumps(found)[:-1] + ", " + message[1:]
        found |= {"event": "log", "message": message}
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found)


def log_as_json(level: int = logging.INFO) -> None:
    """Send what this process logs, warnings of Python's too, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("alorakit").setLevel(level)
    logging.captureWarnings(True)
