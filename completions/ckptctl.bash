# ckptctl completion for bash 4.4 or later. Written by `ckptctl completion bash`.
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
