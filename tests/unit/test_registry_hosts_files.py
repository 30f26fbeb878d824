"""``hosts.toml``: mirrors of any registry, with other paths there, and what is refused instead of ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from barque.image.client.hosts import HostConfig
from barque.image.client.hosts_files import BadHostsFile, HostRules, load


def write(directory: Path, host: str, text: str) -> None:
    (directory / host).mkdir(parents=True)
    (directory / host / "hosts.toml").write_text(text)


async def test_mirrors_come_before_the_registry(tmp_path: Path) -> None:
    write(tmp_path, "quay.example", """
server = "https://real.quay.example"
[host."http://first.example:5000"]
  capabilities = ["resolve", "pull"]
[host."https://second.example/prefix"]
  skip_verify = true
  [host."https://second.example/prefix".rewrite]
    "^team/(.*)$" = "mirror/$1"
    "^.*$" = "rest"
""")
    hosts = HostConfig(certs_dir=str(tmp_path), mirrors=("https://hub.example",))
    first, second, own = await hosts.endpoints("quay.example")
    assert (first.url, first.mirror, first.verify) == ("http://first.example:5000", True, True)
    assert (second.url, second.host, second.verify) == ("https://second.example/prefix", "second.example", False)
    assert (own.url, own.mirror) == ("https://real.quay.example", False)
    assert second.path("team/app") == "mirror/app" and second.path("other") == "rest"
    assert first.path("team/app") == own.path("team/app") == "team/app"
    assert [endpoint.url for endpoint in await hosts.endpoints("quay.example", push=True)] == [own.url]
    assert [endpoint.url for endpoint in await hosts.endpoints("other.example")] == ["https://other.example"]


async def test_the_hub_and_the_default_file(tmp_path: Path) -> None:
    """A file for docker.io comes before ``registry-mirrors``; ``_default`` is for registries without a file."""
    write(tmp_path, "docker.io", '[host."https://near.example"]\n')
    write(tmp_path, "_default", '[host."cache.example"]\n')
    hosts = HostConfig(certs_dir=str(tmp_path), mirrors=("https://hub.example",))
    assert [endpoint.url for endpoint in await hosts.endpoints("docker.io")] == [
        "https://near.example", "https://hub.example", "https://registry-1.docker.io"]
    assert [endpoint.url for endpoint in await hosts.endpoints("any.example")] == [
        "https://cache.example", "https://any.example"]


def test_no_file(tmp_path: Path) -> None:
    assert load(str(tmp_path / "none"), "quay.example") == HostRules()


@pytest.mark.parametrize(("text", "reason"), [
    ("server =", "Invalid value"),
    ('servr = "https://x"', "unknown key 'servr'"),
    ("host = 1", "host is not a table"),
    ('[host."ftp://x"]', "is not the address of a registry"),
    ('server = "https://user:pw@x"', "is not the address of a registry"),
    ('[host."https://x"]\noverride_path = true', "unknown key 'override_path'"),
    ('[host."https://x"]\nskip_verify = "yes"', "skip_verify is no bool"),
    ('[host."https://x"]\ncapabilities = ["pull", "resolve", "push"]', "pull and resolve, both"),
    ('[host."https://x".rewrite]\n"(" = "x"', "rewrite '('"),
    ('[host."https://x".rewrite]\n"a" = "$1"', "names no group"),
])
def test_what_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path, "x", text)
    with pytest.raises(BadHostsFile) as caught:
        load(str(tmp_path), "x")
    assert reason in caught.value.message and caught.value.message.startswith(str(tmp_path / "x/hosts.toml"))
