"""``barque registry serve``: the registry as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
import sys
from pathlib import Path

from barque import log
from barque.errors import BarqueError
from barque.registry.app import serve
from barque.registry.auth import PasswordFile
from barque.registry.storage.filesystem import FilesystemStorage


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="barque registry serve", description="Serve an OCI registry from a directory")
    parser.add_argument("--addr", default="127.0.0.1:5000", metavar="HOST:PORT", help="where to listen (port 0: any)")
    parser.add_argument("--root", required=True, metavar="DIR", help="directory of the stored images")
    parser.add_argument("--read-only", action="store_true", help="refuse every change")
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM): serve HTTPS")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--htpasswd", metavar="FILE", help="ask for a user of this file (bcrypt: htpasswd -B)")
    parser.add_argument("--log-level", default="info", choices=sorted(log.LEVELS))
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"invalid address {text!r}: want HOST:PORT")
    return host.strip("[]"), int(port)


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key go together")
    if not options.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.tls_cert, options.tls_key)
    return context


async def _run(options: argparse.Namespace) -> None:
    host, port = _address(options.addr)
    tls = _tls(options)
    authenticator = None
    if options.htpasswd:
        authenticator = PasswordFile(Path(options.htpasswd).read_text(encoding="utf-8"))
    storage = FilesystemStorage(options.root)
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)

    def ready(bound: int) -> None:
        print(f"registry: {'https' if tls else 'http'}://{host}:{bound} serves {options.root}", file=sys.stderr,
              flush=True)

    try:
        with contextlib.suppress(asyncio.CancelledError):
            await serve(storage, host, port, tls=tls, authenticator=authenticator, read_only=options.read_only,
                        ready=ready)
    finally:
        storage.close()


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT. Exit code 0, or 1 with the reason on standard error."""
    options = _parser().parse_args(argv)
    log.configure(options.log_level)
    try:
        asyncio.run(_run(options))
    except (OSError, ValueError, BarqueError) as error:
        print(f"barque registry serve: {error}", file=sys.stderr)
        return 1
    return 0
