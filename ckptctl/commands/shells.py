r"""Completion: the script of each shell, and the answers that it asks for.

The scripts and the lines between them and us are our own. click's change from release
to release, and what an administrator installed once must go on working. A script runs
`ckptctl` with the words so far, one a line, in CKPTCTL_WORDS, and the position of the one to
complete in CKPTCTL_CWORD; each line of the answer is `kind<TAB>value<TAB>help`, the kind
being `plain`, `dir` or `file`.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import ShellComplete

from ckptctl.output.format import escape

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["SCRIPTS", "complete"]

_BASH = r"""# ckptctl completion for bash 4.4 or later. Written by `ckptctl completion bash`.
# Install: ckptctl completion bash > ~/.local/share/bash-completion/completions/ckptctl

_ckptctl() {
    local kind value help word=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS=$'\t' read -r kind value help; do
        case $kind$word in
            dir*) compopt -o dirnames ;;
            file*) compopt -o default ;;
            # bash inserts a word as it is: what is in a name must not become a command.
            plain\'*) [[ $value == *\'* ]] || COMPREPLY+=("$value") ;;
            plain\"*) [[ $value == *[\"\\\$\`!]* ]] || COMPREPLY+=("$value") ;;
            plain*) printf -v value %q "$value"; COMPREPLY+=("$value") ;;
        esac
    done < <(
        IFS=$'\n'
        CKPTCTL_WORDS="${COMP_WORDS[*]}" CKPTCTL_CWORD=$COMP_CWORD _CKPTCTL_COMPLETE=answer \
            "$1" 2>/dev/null
    )
}

complete -o nosort -F _ckptctl ckptctl
"""

_ZSH = r"""#compdef ckptctl
# ckptctl completion for zsh. Written by `ckptctl completion zsh`.
# Install: ckptctl completion zsh > a directory of $fpath, as _ckptctl

_ckptctl() {
    local kind value help line
    local -a plain
    for line in "${(@f)$(CKPTCTL_WORDS="${(pj:\n:)words}" CKPTCTL_CWORD=$((CURRENT - 1)) \
            _CKPTCTL_COMPLETE=answer "${words[1]}" 2>/dev/null)}"; do
        IFS=$'\t' read -r kind value help <<< "$line"
        case $kind in
            plain) plain+=("${${value//\\/\\\\}//:/\\:}${help:+:$help}") ;;
            dir) _path_files -/ ;;
            file) _path_files ;;
        esac
    done
    (( $#plain )) && _describe -V ckptctl plain
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _ckptctl "$@"
else
    compdef _ckptctl ckptctl
fi
"""

_FISH = r"""# ckptctl completion for fish. Written by `ckptctl completion fish`.
# Install: ckptctl completion fish > ~/.config/fish/completions/ckptctl.fish

function __ckptctl_complete
    set -l before (commandline -opc)
    set -l word (commandline -ct)
    set -l position (count $before)
    set -l words (string join \n -- $before "$word" | string collect)
    for line in (CKPTCTL_WORDS=$words CKPTCTL_CWORD=$position _CKPTCTL_COMPLETE=answer \
            $before[1] 2>/dev/null)
        set -l fields (string split \t -- $line)
        switch $fields[1]
            case plain
                printf '%s\t%s\n' $fields[2] "$fields[3]"
            case dir
                __fish_complete_directories "$word"
            case file
                __fish_complete_path "$word"
        end
    end
end

complete --command ckptctl --no-files --keep-order --arguments '(__ckptctl_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class _Lines(ShellComplete):
    name = "lines"
    source_template = ""
    #: What stands before the value in the word to complete, and so in the answer.
    head = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        words = [_unquoted(word) for word in os.environ.get("CKPTCTL_WORDS", "").split("\n")]
        position = int(os.environ.get("CKPTCTL_CWORD", "0"))
        incomplete = words[position] if position < len(words) else ""
        # bash cuts `--upto=12` into three words, zsh and fish leave it one.
        args = [word for word in words[1:position] if word != "="]
        if incomplete.startswith("--") and "=" in incomplete:
            self.head = incomplete[: incomplete.index("=") + 1]
        return args, incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        # A name that cannot stand in a line as it is would be another one when inserted.
        found = super().get_completions(args, incomplete)
        return [item for item in found if item.type != "plain" or item.value.isprintable()]

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type != "plain":
            return f"{item.type}\t\t"
        return f"plain\t{self.head}{item.value}\t{escape(item.help or '')}"


def complete(cli: click.Command, instruction: str) -> None:
    """Answer a completion script: one line for each word that fits.

    Parameters
    ----------
    cli
        The group of all commands.
    instruction
        What the script put into _CKPTCTL_COMPLETE.
    """
    if instruction != "answer":
        return
    lines = _Lines(cli, {}, "ckptctl", "_CKPTCTL_COMPLETE").complete()
    if lines:
        click.echo(lines)


def _unquoted(word: str) -> str:
    """Return a word without its quotes, although the last one may not be closed."""
    for ending in ("", "'", '"'):
        with suppress(ValueError):
            return "".join(shlex.split(word + ending))
    return word
