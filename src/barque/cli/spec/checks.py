"""Validation of single flag values, in the words of docker's ``opts`` package. Every function returns the text to
keep."""

from __future__ import annotations

_LOCAL_SYSCTLS = frozenset(("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
                            "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"))
_HEX = frozenset("0123456789abcdefABCDEF")
_ULIMITS = frozenset(("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
                      "rtprio", "rttime", "sigpending", "stack"))


def attach(text: str) -> str:
    stream = text.lower()
    if stream not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return stream


def env(text: str) -> str:
    """``NAME`` alone takes its value from our environment, where it has one."""
    import os

    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if equals or name not in os.environ:
        return text
    return f"{name}={os.environ[name]}"


def label(text: str) -> str:
    name, _, _ = text.partition("=")
    if not name.strip():
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def is_ip(text: str) -> bool:
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
            return True
        except OSError:
            continue
    return False


def ip_address(text: str) -> str:
    if not is_ip(text.strip()):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return text.strip()


def dns_search(text: str) -> str:
    domain = text.strip(" ")
    if domain == ".":
        return domain
    labels = domain.removesuffix(".").split(".")
    plain = all(part and len(part) <= 63 and part.replace("-", "").replace("_", "").isalnum() for part in labels)
    if not plain or len(domain) > 255 or not any(character.isalpha() for character in domain):
        raise ValueError(f"{text} is not a valid domain")
    return domain


def extra_host(text: str) -> str:
    """``host:ip`` or ``host=ip`` (brackets around IPv6 allowed) as ``host:ip``."""
    name, equals, address = text.partition("=")
    if not equals:
        name, equals, address = text.partition(":")
    if not equals or not name:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway" and not is_ip(address):
        raise ValueError(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def link(text: str) -> str:
    parts = text.split(":")
    if not text:
        raise ValueError("empty string specified for links")
    if len(parts) > 2:
        raise ValueError(f"bad format for links: {text}")
    return text


def sysctl(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not equals or not (name in _LOCAL_SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def device_cgroup_rule(text: str) -> str:
    parts = text.split(" ")
    numbers = parts[1].split(":") if len(parts) == 3 else []
    good = (len(parts) == 3 and parts[0] in ("a", "b", "c") and len(numbers) == 2
            and all(number == "*" or number.isdigit() for number in numbers)
            and 1 <= len(parts[2]) <= 3 and set(parts[2]) <= set("rwm"))
    if not good:
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def mac_address(text: str) -> bool:
    parts = text.strip().replace("-", ":").split(":")
    return len(parts) == 6 and all(len(part) == 2 and set(part) <= _HEX for part in parts)


def nano_cpus(text: str) -> int:
    from fractions import Fraction

    try:
        cpus = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    nano = cpus * 1_000_000_000
    if nano.denominator != 1:
        raise ValueError("value is too precise")
    return nano.numerator


def ulimit(text: str) -> dict[str, object]:
    """``nofile=1024:2048`` as the API's Ulimit."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    from barque.cli.flags import integer

    numbers = limits.split(":")
    if len(numbers) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    soft, *rest = [integer(number, "ParseInt", -(1 << 63), (1 << 63) - 1) for number in numbers]
    hard = rest[0] if rest else soft
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Soft": soft, "Hard": hard}


def weight_device(text: str) -> dict[str, object]:
    path, colon, weight = text.partition(":")
    if not colon:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    if not weight.isdigit() or (int(weight) and not 10 <= int(weight) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def throttle_bytes(text: str) -> dict[str, object]:
    from barque.oci.sizes import ram_in_bytes

    path, rate = _throttle(text)
    advice = (f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be "
              "a positive integer. Unit is optional and can be kb, mb, or gb")
    try:
        return {"Path": path, "Rate": ram_in_bytes(rate)}
    except ValueError:
        raise ValueError(advice) from None


def throttle_iops(text: str) -> dict[str, object]:
    path, rate = _throttle(text)
    if not rate.isdigit():
        raise ValueError(f"invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must "
                         "be a positive integer")
    return {"Path": path, "Rate": int(rate)}


def _throttle(text: str) -> tuple[str, str]:
    path, colon, rate = text.partition(":")
    if not colon:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, rate


def gpu_request(text: str) -> dict[str, object]:
    """``all``, ``2``, ``device=0,1`` in CSV fields, as the API's DeviceRequest."""
    from barque.cli.flags import integer

    request: dict[str, object] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    seen: set[str] = set()
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if key in seen:
            raise ValueError(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if not equals:
            seen.add("count")
            request["Count"] = -1 if key == "all" else integer(key, "Atoi", -(1 << 63), (1 << 63) - 1)
        elif key == "count":
            request["Count"] = -1 if value == "all" else integer(value, "Atoi", -(1 << 63), (1 << 63) - 1)
        elif key == "driver":
            request["Driver"] = value
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            request["Options"] = dict(option.partition("=")[::2] for option in csv_fields(value))
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if request["Count"] == 0 and request["DeviceIDs"] is None:
        request["Count"] = 1
    return request


def csv_fields(text: str) -> list[str]:
    """One line of CSV; plain texts are split without the csv module."""
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as error:
        raise ValueError(f"parse error: {error}") from None
