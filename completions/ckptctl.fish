# ckptctl completion for fish. Written by `ckptctl completion fish`.
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
