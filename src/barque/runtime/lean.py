"""Importing msgspec without what no document of a runtime needs, which is half of what a command's start imports.

msgspec imports modules for types that it could read (``uuid``, ``decimal``) and for services that nobody here calls;
``typing``, which it needs, compiles no pattern but imports ``re``. While it is imported, stand-ins take their place.
Afterwards those are forgotten, so whoever imports such a module later gets the real one.
"""

from __future__ import annotations

import sys
from types import ModuleType

_UNUSED = ("decimal", "re", "uuid", "msgspec._json_schema", "msgspec.inspect", "msgspec.toml", "msgspec.yaml")


class _StandIn(ModuleType):
    """A module in which every name is an empty class; ``uuid.SafeUUID`` is asked for its ``unknown``."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"unknown": None})


def import_msgspec() -> None:
    """To be called before anything else imports it. What is imported already stays as it is."""
    # What it would take instead of Python's own typing, for what that has by itself since 3.11.
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]
    stand_ins = {name: _StandIn(name) for name in _UNUSED if name not in sys.modules}
    sys.modules.update(stand_ins)
    import msgspec

    for name in stand_ins:
        del sys.modules[name]
        vars(msgspec).pop(name.removeprefix("msgspec."), None)
