# ckptctl completion for bash 4.4 or later. Written by `ckptctl completion bash`.
# Install: ckptctl completion bash > ~/.local/share/bash-completion/completions/ckptctl

_ckptctl() {
    local kind value help
    COMPREPLY=()
    while IFS=$'\t' read -r kind value help; do
        case $kind in
            plain) COMPREPLY+=("$value") ;;
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
        esac
    done < <(
        IFS=$'\n'
        CKPTCTL_WORDS="${COMP_WORDS[*]}" CKPTCTL_CWORD=$COMP_CWORD _CKPTCTL_COMPLETE=answer \
            "$1" 2>/dev/null
    )
}

complete -o nosort -F _ckptctl ckptctl
