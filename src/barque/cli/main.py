"""``barque``: finds the command, runs it, turns failures into texts and exit codes."""

from __future__ import annotations

import os
import sys

from barque.cli import flags
from barque.cli.command import PROGRAM
from barque.cli.errors import ExitCode, UsageError
from barque.cli.flags import BOOL, LIST, STRING, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.command import Command

VERSION_FLAG = "version"
LEVELS = ("debug", "info", "warn", "error", "fatal")


def global_flags() -> list[Flag]:
    return [
        Flag("config", "", STRING, "Directory of the client configuration (default ~/.docker)"),
        Flag("context", "c", STRING, "Context to use, instead of DOCKER_HOST and the context chosen with "
                                     f'"{PROGRAM} context use"'),
        Flag("debug", "D", BOOL, "Show every request, and where a failure came from"),
        Flag("host", "H", LIST, "Socket of the daemon to talk to"),
        Flag("log-level", "l", STRING, 'Logging level ("debug", "info", "warn", "error", "fatal")', "info"),
        Flag("tls", "", BOOL, "Use TLS; implied by --tlsverify"),
        Flag("tlscacert", "", STRING, "Trust only certificates signed by this CA"),
        Flag("tlscert", "", STRING, "Path of the TLS certificate file"),
        Flag("tlskey", "", STRING, "Path of the TLS key file"),
        Flag("tlsverify", "", BOOL, "Use TLS and verify the remote"),
        Flag(VERSION_FLAG, "v", BOOL, "Print version information and quit"),
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the command line (default: of this process) and return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        try:
            code = _main(words)
        except KeyboardInterrupt:
            code = 130
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 141
    except OSError as error:  # what was printed could not be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _complain(f"write /dev/stdout: {(error.strerror or '').lower()}")
        code = 1
    return code


def _main(words: list[str]) -> int:
    from barque.cli.app import App

    try:
        options = flags.parse(global_flags(), words, interspersed=False)
    except flags.HelpWanted:
        return _top_help()
    except UsageError as error:
        _complain(f"{error.message}\n\nUsage:  {PROGRAM} [OPTIONS] COMMAND [ARG...]\n\n"
                  f"Run '{PROGRAM} --help' for more information")
        return error.code
    if options[VERSION_FLAG]:
        from barque import __version__

        print(f"Barque version {__version__}")
        return 0
    if options["log-level"] not in LEVELS:
        _complain(f"Unable to parse logging level: {options['log-level']}")
        return 1
    app = App(options, dict(os.environ))
    return _dispatch(app, options.arguments)


def _dispatch(app: App, words: list[str]) -> int:
    from barque.cli import table

    if not words:
        return _top_help()
    path, rest = table.resolve(words)
    if path == "help":
        return _help(app, rest)
    if path in table.TABLE:
        return execute(app, table.load(path), path, rest)
    if path in table.MISSING:
        _complain(f"{PROGRAM}: '{PROGRAM} {path}' is not available in this version")
        return 1
    if path in table.GROUPS:
        return _group(path, rest)
    _complain(f"{PROGRAM}: unknown command: {PROGRAM} {words[0]}\n\nRun '{PROGRAM} --help' for more information")
    return 1


def execute(app: App, command: Command, path: str, words: list[str]) -> int:
    """Run a command and report its failure as docker does."""
    from barque.client.engine import ApiError, Unreachable

    try:
        return command.execute(app, path, words)
    except ExitCode as error:
        app.flush()
        if error.message:
            _complain(error.message)
        return error.code
    except (ApiError, Unreachable) as error:
        app.flush()
        if command.verb_prefix:
            _complain(f"{PROGRAM}: {error}\n\nRun '{PROGRAM} {path} --help' for more information")
            return 125
        _complain(str(error))
        return 1
    except Exception as error:
        # The boundary of the program: a failure to read or write a file is a message, not a traceback.
        if not isinstance(error, OSError) or isinstance(error, BrokenPipeError) or app.debug:
            raise
        app.flush()
        reason = (error.strerror or str(error)).lower()
        _complain(f"open {error.filename}: {reason}" if error.filename else reason)
        return 1


def _group(path: str, rest: list[str]) -> int:
    from barque.cli import help as help_texts
    from barque.cli import table

    if rest and rest[0] not in ("--help", "-h", "help"):
        if rest[0].startswith("-"):
            _complain(f"unknown flag: {rest[0]}\n\nUsage:  {PROGRAM} {path} COMMAND\n\n"
                      f"Run '{PROGRAM} {path} --help' for more information")
            return 125
        _complain(f"{PROGRAM}: unknown command: {PROGRAM} {path} {rest[0]}\n\nUsage:  {PROGRAM} {path}\n\n"
                  f"Run '{PROGRAM} {path} --help' for more information")
        return 1
    text = help_texts.group_help(path, table.GROUPS[path], table.members(path))
    print(text, end="", file=sys.stdout if rest else sys.stderr)
    return 0


def _help(app: App, words: list[str]) -> int:
    if not words:
        return _top_help()
    return _dispatch(app, [*words, "--help"])


def _top_help() -> int:
    from barque.cli import help as help_texts
    from barque.cli import table

    options = help_texts.flag_usages(global_flags(), 80)
    print(help_texts.top_help(table.sections(), options), end="")
    return 0


def _complain(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
