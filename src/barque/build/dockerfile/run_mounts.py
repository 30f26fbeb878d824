"""``RUN --mount=type=...``: one comma-separated list of options, as docker reads it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass

from barque.build.dockerfile.errors import SyntaxProblem, did_you_mean
from barque.build.dockerfile.expand import go_quote

BIND, CACHE, TMPFS, SECRET, SSH = "bind", "cache", "tmpfs", "secret", "ssh"
TYPES = (BIND, CACHE, TMPFS, SECRET, SSH)
SHARED, PRIVATE, LOCKED = "shared", "private", "locked"
SHARING = (SHARED, PRIVATE, LOCKED)
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_KEYS = ("type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode", "uid", "gid",
         "src", "dst", "destination", "ro", "rw", "readwrite", "env")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([kKmMgGtTpP])?i?[bB]?\Z", re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


@dataclass(frozen=True)
class RunMount:
    """``mode`` -1 and ``uid``, ``gid`` -1 mean the default of the type; ``size`` is in bytes, 0 for no limit."""

    type: str = BIND
    source_stage: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int = -1
    uid: int = -1
    gid: int = -1


def parse(text: str, expand: Callable[[str], str] = lambda word: word) -> RunMount:
    """Raises SyntaxProblem in docker's words."""
    try:
        fields = next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise SyntaxProblem(f"failed to parse csv mounts: {error}") from None
    options: dict[str, str] = {}
    for item in fields:
        key, equals, value = item.partition("=")
        key = key.lower()
        if key not in _KEYS:
            if not equals:
                raise SyntaxProblem(f"invalid field '{item}' must be a key=value pair")
            raise SyntaxProblem(f"unexpected key '{key}' in '{item}'{did_you_mean(key, _KEYS)}")
        if not equals and key not in ("readonly", "ro", "readwrite", "rw", "required"):
            raise SyntaxProblem(f"invalid field '{item}' must be a key=value pair")
        options[_ALIASES.get(key, key)] = expand(value) if equals else "true"
    return _checked(options)


def _checked(options: dict[str, str]) -> RunMount:
    kind = options.get("type", BIND).lower()
    if kind not in TYPES:
        raise SyntaxProblem(f"unsupported mount type {go_quote(options['type'])}{did_you_mean(kind, TYPES)}")
    _check_keys(kind, options)
    sharing = options.get("sharing", "").lower()
    if sharing and sharing not in SHARING:
        raise SyntaxProblem(f"unsupported sharing value {go_quote(options['sharing'])}{did_you_mean(sharing, SHARING)}")
    readonly = kind not in (CACHE, TMPFS)
    for key in options:
        if key == "readonly":
            readonly = _truth(key, options[key])
        elif key == "readwrite":
            readonly = not _truth(key, options[key])
    return RunMount(
        kind, options.get("from", ""), options.get("source", ""), options.get("target", ""), readonly,
        _size(options["size"]) if "size" in options else 0, options.get("id", ""), sharing,
        _truth("required", options.get("required", "false")), options.get("env"), _number(options, "mode", 8),
        _number(options, "uid", 10), _number(options, "gid", 10))


def _check_keys(kind: str, options: dict[str, str]) -> None:
    if "required" in options and kind not in (SECRET, SSH):
        raise SyntaxProblem(f"unexpected key 'required' for mount type '{kind}'")
    if "size" in options and kind != TMPFS:
        raise SyntaxProblem(f"unexpected key 'size' for mount type '{kind}'")
    if kind not in (SECRET, SSH, CACHE):
        for key in ("mode", "uid", "gid"):
            if key in options:
                raise SyntaxProblem(f'{key} not allowed for "{kind}" type mounts')
    if kind == SECRET:
        if options.get("from"):
            raise SyntaxProblem("secret mount should not have a from")
        if options.get("sharing"):
            raise SyntaxProblem("secret mount should not define sharing")
        if not any(options.get(key) for key in ("source", "target", "id")):
            raise SyntaxProblem("invalid secret mount. one of source, target required")
        if options.get("source") and options.get("id"):
            raise SyntaxProblem("both source and id can't be set")
    if options.get("sharing") and kind != CACHE:
        raise SyntaxProblem(f"invalid cache sharing set for {kind} mount")


def _truth(key: str, value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise SyntaxProblem(f"invalid value for {key}: {value}")
    return value in _TRUE


def _number(options: dict[str, str], key: str, base: int) -> int:
    if key not in options:
        return -1
    value = options[key]
    if not re.fullmatch(r"[0-7]+" if base == 8 else r"[0-9]+", value) or int(value, base) >= 1 << 32:
        raise SyntaxProblem(f"invalid value {value} for {key}")
    return int(value, base)


def _size(value: str) -> int:
    match = _SIZE.match(value)
    if not match:
        raise SyntaxProblem(f"invalid value for size: {value}")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])
