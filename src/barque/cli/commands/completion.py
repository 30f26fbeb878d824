"""``completion``: scripts with which shells complete our command line."""

from __future__ import annotations

from barque.cli.command import PROGRAM, Command
from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values

# readline breaks words at ":" and "=": what stands before the last one is cut from the answers.
_BASH = """# bash completion for PROGRAM
_PROGRAM() {
    local line=${COMP_LINE:0:COMP_POINT} current prefix="" candidate
    local -a words candidates
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[-1]}
    mapfile -t candidates < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    COMPREPLY=()
    ((${#candidates[@]})) || return
    [[ $current == *[:=]* ]] && prefix=${current%"${current##*[:=]}"}
    for candidate in "${candidates[@]::${#candidates[@]}-1}"; do
        candidate=${candidate%%$'\\t'*}
        COMPREPLY+=("${candidate#"$prefix"}")
    done
    if [[ ${candidates[-1]} == :0 ]]; then
        compopt -o default
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace
    fi
}
complete -F _PROGRAM PROGRAM
"""
_ZSH = """#compdef PROGRAM
_PROGRAM() {
    local -a lines described
    local line name
    lines=("${(@f)$(${words[1]} __complete ${(@)words[2,CURRENT-1]} "${words[CURRENT]}" 2>/dev/null)}")
    for line in ${lines[1,-2]}; do
        name=${line%%$'\\t'*}
        described+=("${name//:/\\\\:}:${line#*$'\\t'}")
    done
    ((${#described})) && _describe -t PROGRAM PROGRAM described
    [[ ${lines[-1]} == :0 ]] && _files
}
if [[ $funcstack[1] == _PROGRAM ]]; then _PROGRAM "$@"; else compdef _PROGRAM PROGRAM; fi
"""
_FISH = """# fish completion for PROGRAM
function __PROGRAM_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l lines ($words[1] __complete $words[2..-1] 2>/dev/null)
    test (count $lines) -gt 0; or return
    test (count $lines) -gt 1; and printf '%s\\n' $lines[1..-2]
    test $lines[-1] = :0; and __fish_complete_path (commandline -ct)
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def _completion(app: App, values: Values) -> int:
    shell = values.arguments[0]
    if shell not in _SCRIPTS:
        raise CommandError(f"no completion for {shell}: there is one for {', '.join(_SCRIPTS)}")
    app.out(_SCRIPTS[shell].replace("PROGRAM", PROGRAM))
    return 0


class _Complete(Command):
    """Takes every word as it is: they are the line to complete."""

    def execute(self, app: App, path: str, words: list[str]) -> int:
        from barque.cli.completion import complete

        candidates, then = complete(app, words)
        for name, about in candidates:
            app.line(f"{name}\t{about}" if about else name)
        app.line(f":{then}")
        return 0


COMPLETION = Command("completion", "SHELL", "Print the script for the completion of a shell (bash, fish, zsh)",
                     _completion, least=1, most=1, examples="""
source <(barque completion bash)
barque completion zsh > "${fpath[1]}/_barque"
barque completion fish > ~/.config/fish/completions/barque.fish
""")
COMPLETE = _Complete("__complete", "WORDS", "What may come next on a command line", _completion)
