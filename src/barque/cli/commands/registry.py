"""``registry serve``: the registry that comes with the engine, in this process."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values

_MODULE = "barque.registry.server"


def _serve(_: App, values: Values) -> int:
    import importlib

    try:
        module = importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name not in (_MODULE, "barque.registry"):
            raise
        raise CommandError("the registry is not part of this installation") from None
    code: int = module.main(values.arguments)
    return code


class _Serve(Command):
    """Hands every word on, flags too: the server has its own."""

    def execute(self, app: App, path: str, words: list[str]) -> int:
        from barque.cli.flags import Values

        values = Values({})
        values.arguments = words
        return self.run(app, values)


SERVE = _Serve("registry serve", "[OPTIONS]", "Serve images to other machines", _serve,
               examples="barque registry serve --help")
