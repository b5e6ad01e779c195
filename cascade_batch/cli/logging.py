"""Logging of a process: text lines for people, JSON lines for machines. Configured by entry points only."""

import json
import logging
import sys


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure(level: str, line_format: str) -> None:
    """Send this package's log lines to stderr; other libraries keep their own level (warning)."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if line_format == "json" else text)
    logger = logging.getLogger("cascade_batch")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level.upper())
