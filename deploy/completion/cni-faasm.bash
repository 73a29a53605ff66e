# Completion of cni-faasm in bash: the tool itself says what may come next.
_cni_faasm() {
    local IFS=$'\n'
    # shellcheck disable=SC2207  # a line each, none with a pattern
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \
        _CNI_FAASM_COMPLETE=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _cni_faasm cni-faasm
