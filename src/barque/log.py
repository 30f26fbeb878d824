"""Logging set-up of the daemon and the front ends: one logger tree ``barque``, text or JSON lines on standard error or
in a file that does not grow without end.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime
from typing import TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR,
          "fatal": logging.CRITICAL}

#: Bytes after which a log file is begun anew; one of that size is kept beside it.
FILE_LIMIT = 10 << 20


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="microseconds")


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = json.dumps(record.getMessage(), ensure_ascii=False)
        line = f"time={_timestamp(record)} level={record.levelname.lower()} logger={record.name} msg={message}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": _timestamp(record), "level": record.levelname.lower(), "logger": record.name,
                  "msg": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class _LimitedFile(logging.StreamHandler[TextIO]):
    """Where standard output or error are the same file, they follow it."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__(self._open())

    def _open(self) -> TextIO:
        return open(self._path, "a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self.stream.tell() > FILE_LIMIT:
            self._begin_anew()

    def _begin_anew(self) -> None:
        full = os.fstat(self.stream.fileno())
        os.replace(self._path, self._path + ".1")
        self.stream.close()
        self.stream = self._open()
        for fd in (1, 2):
            if os.path.samestat(os.fstat(fd), full):
                os.dup2(self.stream.fileno(), fd)


def configure(level: str, form: str = "text", path: str = "") -> None:
    """Send everything at or above ``level`` (a key of :data:`LEVELS`) to the file ``path``, else to standard error, as
    text or JSON lines. Raises OSError.
    """
    handler = _LimitedFile(path) if path else logging.StreamHandler[TextIO](sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
