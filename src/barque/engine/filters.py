"""The ``filters`` parameter of docker's API: which values of which keys to show.

Two forms are on the wire: ``{"label": ["a=b"]}`` and, from old clients, ``{"label": {"a=b": true}}``.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from barque.errors import InvalidArgument

Filters = dict[str, list[str]]


class InvalidFilter(InvalidArgument):
    text = "invalid filter '{key}'"


class InvalidFilterValue(InvalidArgument):
    text = "invalid filter '{key}={value}'"


def parse(text: str | None, known: Collection[str] | None = None) -> Filters:
    """Decode ``text``; raises InvalidArgument where it is malformed or names a key that is not ``known``."""
    if not text:
        return {}
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidArgument("invalid filter") from None
    if not isinstance(tree, dict):
        raise InvalidArgument("invalid filter")
    result: Filters = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result[key] = [item for item, on in value.items() if on is True]
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            result[key] = value
        else:
            raise InvalidArgument("invalid filter")
        if known is not None and key not in known:
            raise InvalidFilter(key=key)
    return {key: values for key, values in result.items() if values}


def flag(filters: Filters, key: str) -> bool | None:
    """The boolean value of ``key``, None where it is absent; raises :class:`InvalidFilterValue`."""
    values = filters.get(key)
    if not values:
        return None
    truths = {"1": True, "true": True, "True": True, "0": False, "false": False, "False": False}
    found = {truths.get(value) for value in values}
    if None in found or len(found) != 1:
        raise InvalidFilterValue(key=key, value="[" + " ".join(values) + "]")
    return found.pop()


def match_labels(wanted: list[str], labels: dict[str, str] | None) -> bool:
    """Whether all of ``wanted`` (``key`` or ``key=value``) are among ``labels``."""
    have = labels or {}
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in have or (equals and have[key] != value):
            return False
    return True
