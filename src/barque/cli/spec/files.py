"""Files of ``NAME=value`` lines: ``--env-file`` and ``--label-file``."""

from __future__ import annotations

import os

_BOM = "\ufeff"


def read_lines(path: str, *, from_environment: bool) -> list[str]:
    """The assignments of a file. A name alone takes its value from the environment, or is left out.

    Raises ValueError in docker's words, also for a file that cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise ValueError(f"env file {path} contains invalid utf8 bytes") from None
    except OSError as error:
        raise ValueError(f"open {path}: {(error.strerror or '').lower()}") from None
    result = []
    for line in text.removeprefix(_BOM).split("\n"):
        content = line.lstrip().rstrip("\r") if line.strip() else ""
        if not content or content.startswith("#"):
            continue
        name, equals, value = content.partition("=")
        if not name:
            raise ValueError(f"no variable name on line '{content}'")
        if name != name.strip() or any(character.isspace() for character in name):
            raise ValueError(f"variable '{name}' contains whitespaces")
        if equals:
            result.append(f"{name}={value}")
        elif not from_environment:
            result.append(name)
        elif name in os.environ:
            result.append(f"{name}={os.environ[name]}")
    return result


def assignments(files: list[str], given: list[str], *, from_environment: bool) -> list[str]:
    result: list[str] = []
    for path in files:
        result += read_lines(path, from_environment=from_environment)
    return result + list(given)
