"""TLS connections: verification, and the half-close after which the peer may go on talking."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from barque.client.tls import TlsSocket
from barque.client.tlsfiles import TlsFiles

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=engine.test", "-addext", "subjectAltName=DNS:engine.test", "-keyout", str(directory / "key.pem"),
         "-out", str(directory / "cert.pem")], check=True, capture_output=True)
    return directory


def serve(certificate: Path, sock: socket.socket, received: bytearray, data: bytes) -> None:
    """Read to the peer's close_notify, then send ``data``: what an engine does with a container's stdin and stdout."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    with sock, contextlib.suppress(ConnectionError):  # the client that refuses us hangs up
        _converse(tls, incoming, outgoing, sock, received, data)


def _converse(tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, sock: socket.socket,
              received: bytearray, data: bytes) -> None:
    done = False
    while not done:
        try:
            if not received and tls.version() is None:
                tls.do_handshake()
            part = tls.read(65536)
            done = not part
            received += part
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            piece = sock.recv(65536)
            if not piece:
                break
            incoming.write(piece)
        except ssl.SSLZeroReturnError:
            done = True
        except ssl.SSLError:
            break
    if done:
        tls.write(data)
    sock.sendall(outgoing.read())


def connect(certificate: Path, files: TlsFiles, name: str, data: bytes = b"") -> tuple[TlsSocket, bytearray]:
    mine, theirs = socket.socketpair()
    received = bytearray()
    threading.Thread(target=serve, args=(certificate, theirs, received, data), daemon=True).start()
    try:
        return TlsSocket(mine, files.context(), name), received
    except BaseException:
        mine.close()
        raise


def test_the_answer_comes_after_our_half_close(certificate: Path) -> None:
    answer = bytes(range(256)) * 2000
    sock, received = connect(certificate, TlsFiles(ca=str(certificate / "cert.pem")), "engine.test", answer)
    sock.sendall(b"x" * 100_000)
    sock.shutdown(socket.SHUT_WR)
    got = b""
    while piece := sock.recv(65536):
        got += piece
    sock.close()
    assert bytes(received) == b"x" * 100_000
    assert got == answer


@pytest.mark.parametrize(("files", "name"), [("own", "other.test"), ("system", "engine.test")])
def test_a_server_that_cannot_be_verified_is_refused(certificate: Path, files: str, name: str) -> None:
    ca = str(certificate / "cert.pem") if files == "own" else ""
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(certificate, TlsFiles(ca=ca), name)


def test_verification_can_be_switched_off(certificate: Path) -> None:
    sock, _ = connect(certificate, TlsFiles(verify=False), "other.test")
    sock.close()
