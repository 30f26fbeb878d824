"""``--mount`` and ``--volume``: what they say, as the API's Mount objects and bind strings."""

from __future__ import annotations

import os

from barque.cli.spec.checks import csv_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FLAGS = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
#: Options below which section of the Mount they belong to, and their key there.
_TEXT_OPTIONS = {
    "bind-propagation": ("BindOptions", "Propagation"),
    "volume-subpath": ("VolumeOptions", "Subpath"),
    "image-subpath": ("ImageOptions", "Subpath"),
}
_SECTION_OF_TYPE = {"BindOptions": ("bind", "bind-*"), "VolumeOptions": ("volume", "volume-*"),
                    "TmpfsOptions": ("tmpfs", "tmpfs-*"), "ImageOptions": ("image", "image-*")}
_BIND_RECURSIVE = {"disabled": "NonRecursive", "writable": "ReadOnlyNonRecursive", "readonly": "ReadOnlyForceRecursive"}


def absolute(path: str) -> str:
    return os.path.abspath(path) if path.startswith(".") else path


def mount(text: str) -> dict[str, Any]:
    """One ``--mount`` value; raises ValueError in docker's words."""
    result: dict[str, Any] = {"Type": "volume"}
    for field in csv_fields(text.strip()):
        key, equals, value = field.partition("=")
        if not equals and key.lower() not in _FLAGS:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if equals and not value.strip():
            raise ValueError(f"invalid value for '{key}': value is empty")
        _option(result, key.lower(), value, field, bool(equals))
    if "VolumeOptions" in result:
        result["VolumeOptions"].setdefault("DriverConfig", {})
    _validate(result)
    return result


def _option(result: dict[str, Any], key: str, value: str, field: str, has_value: bool) -> None:
    if key == "type":
        result["Type"] = value.lower()
    elif key in ("source", "src"):
        result["Source"] = absolute(value)
    elif key in ("target", "dst", "destination"):
        result["Target"] = value
    elif key in ("readonly", "ro"):
        result["ReadOnly"] = _boolean(key, value, has_value)
    elif key == "consistency":
        result["Consistency"] = value.lower()
    elif key in _TEXT_OPTIONS:
        section, name = _TEXT_OPTIONS[key]
        result.setdefault(section, {})[name] = value
    elif key.startswith("bind-"):
        _bind_option(result, key, value, field, has_value)
    elif key == "volume-nocopy":
        result.setdefault("VolumeOptions", {})["NoCopy"] = _boolean(key, value, has_value)
    elif key == "volume-label":
        name, _, content = value.partition("=")
        result.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = content
    elif key == "volume-driver":
        result.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        name, _, content = value.partition("=")
        driver = result.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
        driver.setdefault("Options", {})[name] = content
    elif key in ("tmpfs-size", "tmpfs-mode"):
        _tmpfs_option(result, key, value)
    else:
        raise ValueError(f"unexpected key '{key}' in '{field}'")


def _bind_option(result: dict[str, Any], key: str, value: str, field: str, has_value: bool) -> None:
    options = result.setdefault("BindOptions", {})
    if key == "bind-nonrecursive":
        options["NonRecursive"] = _boolean(key, value, has_value)
    elif key == "bind-create-src":
        options["CreateMountpoint"] = _boolean(key, value, has_value)
    elif key == "bind-recursive":
        if value in _BIND_RECURSIVE:
            options[_BIND_RECURSIVE[value]] = True
        elif value != "enabled":
            raise ValueError(f"invalid value for {key}: {value} "
                             '(must be "enabled", "disabled", "writable", or "readonly")')
    elif key == "bind-idmap":
        if value != "match-user":
            raise ValueError(f'invalid value for {key}: {value} (must be "match-user")')
        options["IDMap"] = value
    else:
        raise ValueError(f"unexpected key '{key}' in '{field}'")


def _tmpfs_option(result: dict[str, Any], key: str, value: str) -> None:
    from barque.oci.sizes import ram_in_bytes

    options = result.setdefault("TmpfsOptions", {})
    try:
        if key == "tmpfs-size":
            options["SizeBytes"] = ram_in_bytes(value)
        else:
            options["Mode"] = int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _boolean(key: str, value: str, has_value: bool) -> bool:
    if not has_value or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError(f"invalid value for {key}: {value}")


def _validate(result: dict[str, Any]) -> None:
    if not result["Type"]:
        raise ValueError("type is required")
    if not result.get("Target"):
        raise ValueError("target is required")
    for section, (kind, names) in _SECTION_OF_TYPE.items():
        if result.get(section) and result["Type"] != kind:
            raise ValueError(f"cannot mix '{names}' options with mount type '{result['Type']}'")
    bind = result.get("BindOptions") or {}
    if bind.get("ReadOnlyNonRecursive") and not result.get("ReadOnly"):
        raise ValueError("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
    if bind.get("ReadOnlyForceRecursive"):
        if not result.get("ReadOnly"):
            raise ValueError("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
        if bind.get("Propagation") != "rprivate":
            raise ValueError("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in "
                             "conjunction")


def volumes(texts: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """``--volume`` values as (bind strings, anonymous volumes)."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, Any]] = {}
    for text in texts:
        parts = text.split(":")
        if not text:
            raise ValueError("invalid empty volume spec")
        if "" in parts:
            raise ValueError(f"invalid spec: {text}: empty section between colons")
        if len(parts) == 1:
            anonymous[text] = {}
        else:
            bind = ":".join([absolute(parts[0]), *parts[1:]])
            if bind not in binds:
                binds.append(bind)
    return binds, anonymous
