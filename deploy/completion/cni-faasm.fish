# Completion of cni-faasm in fish: the tool itself says what may come next.
function __cni_faasm
    _CNI_FAASM_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) cni-faasm 2>/dev/null
end
complete --command cni-faasm --no-files --condition "__cni_faasm is-args" --arguments "(__cni_faasm get-args)"
