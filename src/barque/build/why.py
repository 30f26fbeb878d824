"""Why a step was not taken from the cache, in a few words for people."""

from __future__ import annotations

from barque.build.cache import Facts

OFF = "the cache is not used"
NEW = "not built before"
BEFORE = "a step before it was built anew"
GONE = "what it made is not kept any more"
NOT_NAMED = "no image of --cache-from has it"
_BASE = "what it builds on is another one"
#: Names that are listed at most.
_SHOWN = 3


def explain(facts: Facts, nearest: Facts | None, *, rebuilt: bool) -> str:
    """``nearest``: the most similar step of the cache; ``rebuilt``: an earlier step of the stage had to run."""
    if nearest is not None and nearest.state == facts.state and nearest.text == facts.text:
        return _difference(nearest.parts, facts.parts)
    if rebuilt:
        return BEFORE
    return _BASE if nearest is not None and nearest.text == facts.text else NEW


def _difference(old: dict[str, str], new: dict[str, str]) -> str:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if not names:
        return GONE
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return f"changed: {shown}"
