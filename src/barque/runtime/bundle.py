"""An OCI bundle: a directory with a config.json (bundle.md)."""

from __future__ import annotations

import os

from barque.errors import NotFound
from barque.oci import runtime_spec

_CONFIG = "config.json"
#: config.json of a container with thousands of mounts is below 1 MiB.
MAX_CONFIG_BYTES = 16 * 1024 * 1024


class NoConfig(NotFound):
    text = "JSON specification file config.json not found"


def load(path: str) -> tuple[runtime_spec.Spec, str]:
    """The document of the bundle at ``path``, not validated yet, and the bundle's absolute path.

    Raises :class:`NoConfig`, InvalidJSON or OSError.
    """
    directory = os.path.abspath(path)
    try:
        with open(os.path.join(directory, _CONFIG), "rb") as file:
            data = file.read(MAX_CONFIG_BYTES)
    except FileNotFoundError:
        raise NoConfig from None
    return runtime_spec.decode(data), directory
