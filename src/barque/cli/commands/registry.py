"""``registry serve``, ``gc`` and ``check``: the registry that comes with the engine, in this process."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values

_MODULE = "barque.registry.server"


def _run(_: App, values: Values) -> int:
    import importlib

    try:
        module = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name not in (_MODULE, "barque.registry"):
            raise
        raise CommandError("the registry is not part of this installation") from None
    code: int = module.main(values.arguments)
    return code


class _Verb(Command):
    """Hands every word on, flags too: the registry has its own."""

    def __init__(self, verb: str, summary: str) -> None:
        super().__init__(f"registry {verb}", "[OPTIONS]", summary, _run, examples=f"barque registry {verb} --help")
        self._verb = verb

    def execute(self, app: App, path: str, words: list[str]) -> int:
        from barque.cli.flags import Values

        values = Values({})
        values.arguments = [self._verb, *words]
        return self.run(app, values)


SERVE = _Verb("serve", "Serve images to other machines")
GC = _Verb("gc", "Collect a registry's garbage, also while it serves")
CHECK = _Verb("check", "Verify every digest and reference of a registry")
