"""config.json, credential helpers and contexts are read and written as docker's client does."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from barque.cli import flags
from barque.cli.app import App
from barque.cli.errors import CommandError
from barque.cli.main import global_flags, main
from barque.client.config import HUB, BadConfig, ConfigFile, encode_auth
from barque.client.contexts import ContextError, ContextStore

HELPER = """#!/bin/sh
cat > "$HELPER_LOG.$1"
case $1 in
get) grep -q missing "$HELPER_LOG.get" && { echo "credentials not found in native keychain"; exit 1; }
     echo '{"ServerURL":"x","Username":"<token>","Secret":"tok"}';;
esac
"""


def write(directory: Path, document: object) -> ConfigFile:
    (directory / "config.json").write_text(json.dumps(document))
    return ConfigFile(str(directory))


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_credentials_of_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, {"auths": {"r:5000": auth("bob:pa:ss"), "https://old.example/v1/": auth("a:b"),
                                        "empty": {}}})
    assert config.credentials("r:5000") == {"serveraddress": "r:5000", "username": "bob", "password": "pa:ss"}
    assert config.credentials("old.example")["username"] == "a"
    assert config.credentials("empty") == {}
    assert config.credentials("unknown") == {}
    assert set(config.all_credentials()) == {"r:5000", "https://old.example/v1/"}


def test_store_keeps_what_it_does_not_know_and_protects_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, {"future": {"x": 1}, "auths": {}})
    os.chmod(tmp_path / "config.json", 0o600)
    config.store(HUB, "bob", "secret", "")
    config.store("tok.example", "bob", "secret", "identity")
    again = ConfigFile(str(tmp_path))
    assert again.document["future"] == {"x": 1}
    assert again.credentials(HUB)["password"] == "secret"
    assert again.credentials("tok.example")["identitytoken"] == "identity"
    assert "secret" not in base64.b64decode(again.document["auths"]["tok.example"]["auth"]).decode()
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o600
    again.erase(HUB)
    assert HUB not in ConfigFile(str(tmp_path)).document["auths"]
    assert os.listdir(tmp_path) == ["config.json"]


def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HELPER_LOG", str(tmp_path / "log"))
    config = write(tmp_path, {"credsStore": "test", "credHelpers": {"other": "none"}})
    assert config.credentials("x") == {"serveraddress": "x", "identitytoken": "tok"}
    assert config.credentials("missing.example") == {}
    config.store("x", "bob", "secret", "")
    assert json.loads((tmp_path / "log.store").read_text()) == {"ServerURL": "x", "Username": "bob", "Secret": "secret"}
    with pytest.raises(BadConfig, match='exec: "docker-credential-none": executable file not found'):
        config.credentials("other")


@pytest.mark.skipif(not all(map(shutil.which, ("docker-credential-pass", "pass", "gpg", "gpgconf"))),
                    reason="needs docker-credential-pass, pass and gpg")
def test_a_password_store_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker-credential-pass keeps what docker and we store, and gives it to both."""
    (tmp_path / "gpg").mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "gpg"))
    monkeypatch.setenv("PASSWORD_STORE_DIR", str(tmp_path / "store"))
    config = write(tmp_path, {"credsStore": "pass"})
    try:
        for command in (["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "me",
                         "future-default"],
                        ["pass", "init", "me"]):
            subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        config.store("r.example:5000", "bob", "pä:ss", "")
        config.store("tok.example", "bob", "", "identity")
        again = ConfigFile(str(tmp_path))
        assert again.document["auths"] == {"r.example:5000": {}, "tok.example": {}}
        assert again.all_credentials() == {
            "r.example:5000": {"serveraddress": "r.example:5000", "username": "bob", "password": "pä:ss"},
            "tok.example": {"serveraddress": "tok.example", "identitytoken": "identity"}}
        again.erase("tok.example")
        assert again.credentials("tok.example") == {}
        listed = subprocess.run(["docker-credential-pass", "list"], check=True, capture_output=True)
        assert json.loads(listed.stdout) == {"r.example:5000": "bob"}
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=True)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadConfig, match="parsing config file"):
        ConfigFile(str(tmp_path))
    assert ConfigFile(str(tmp_path / "none")).document == {}


def test_auth_header_is_url_safe() -> None:
    header = encode_auth({"username": "ü?>", "password": "~~"})
    assert json.loads(base64.urlsafe_b64decode(header)) == {"username": "ü?>", "password": "~~"}


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_HOST", "BARQUE_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def url(*words: str, **environ: str) -> str:
    app = App(flags.parse(global_flags(), list(words), interspersed=False), {**os.environ, **environ})
    return app._endpoint().url


def test_which_host_wins(docker_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["context", "create", "far", "--docker", "host=tcp://far:1"]) == 0
    assert url(DOCKER_HOST="tcp://d:1") == "tcp://d:1"
    assert url(DOCKER_HOST="tcp://d:1", BARQUE_HOST="tcp://b:1") == "tcp://b:1"
    assert url("-H", "tcp://h:1", BARQUE_HOST="tcp://b:1") == "tcp://h:1"
    assert url("-c", "far", BARQUE_HOST="tcp://b:1") == "tcp://far:1"
    assert url(DOCKER_CONTEXT="far") == "tcp://far:1"
    assert main(["context", "use", "far"]) == 0
    assert url() == "tcp://far:1"
    assert url(DOCKER_CONTEXT="default") == "unix:///run/barque/barque.sock"
    with pytest.raises(CommandError, match='context "none": context not found'):
        url("-c", "none")
    with pytest.raises(CommandError, match="either specify --host or --context"):
        url("-c", "far", "-H", "tcp://h:1")
    assert main(["context", "rm", "far"]) == 1
    assert 'context "far" is in use' in capsys.readouterr().err
    assert main(["context", "rm", "-f", "far"]) == 0
    assert url() == "unix:///run/barque/barque.sock"
    assert json.loads((docker_config / "config.json").read_text()) == {}


def test_context_certificates_are_copied(docker_config: Path) -> None:
    (docker_config / "c").write_text("certificate")
    assert main(["context", "create", "safe", "--docker", f"host=tcp://far:1,ca={docker_config}/c"]) == 0
    host, tls = ContextStore(str(docker_config / "contexts")).host("safe")
    assert host == "tcp://far:1"
    assert tls is not None
    assert Path(tls.ca).read_text() == "certificate"
    assert (tls.cert, tls.verify) == ("", True)
    assert Path(tls.ca).stat().st_mode & 0o777 == 0o600


def test_context_names(docker_config: Path) -> None:
    store = ContextStore(str(docker_config / "contexts"))
    with pytest.raises(ContextError, match="context not found"):
        store.load("../x")
    assert main(["context", "create", "../x", "--docker", "host=tcp://a:1"]) == 1
    assert main(["context", "create", "default", "--docker", "host=tcp://a:1"]) == 1
    assert store.names() == []


def test_contexts_travel_in_archives(docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    pem = tmp_path / "ca.pem"
    pem.write_text("certificate")
    archive = str(tmp_path / "far.tar")
    assert main(["context", "create", "far", "--description", "d", "--docker", f"host=tcp://h:1,ca={pem}"]) == 0
    assert main(["context", "update", "far", "--description", "e"]) == 0
    assert main(["context", "export", "far", archive]) == 0
    assert main(["context", "export", "far", archive]) == 1
    assert main(["context", "import", "near", archive]) == 0
    assert main(["context", "import", "near", archive]) == 1
    assert "already exists" in capsys.readouterr().err
    store = ContextStore(str(docker_config / "contexts"))
    assert store.load("near") == {**store.load("far"), "Name": "near"}
    assert store.load("near")["Metadata"]["Description"] == "e"
    assert store.tls_contents("near") == {"ca.pem": b"certificate"}
    # As docker writes and reads it.
    done = subprocess.run(["tar", "tf", archive], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["meta.json", "tls/", "tls/docker/", "tls/docker/ca.pem"]


@pytest.mark.parametrize("name", ["../evil", "tls/docker/../../x", "tls/other/ca.pem", "/etc/passwd"])
def test_archives_with_other_files_are_refused(docker_config: Path, tmp_path: Path, name: str,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for entry_name in ("meta.json", name):
            entry = tarfile.TarInfo(entry_name)
            entry.size = 16
            tar.addfile(entry, io.BytesIO(b'{"Endpoints":{}}'))
    assert main(["context", "import", "bad", str(tmp_path / "a.tar")]) == 1
    assert "bad" not in ContextStore(str(docker_config / "contexts")).names()
