# bash completion for convstorectl. Commands and options come from its own --help, so that none is
# missing here.

# The commands, one a line.
_convstorectl_commands() {
    "$1" --help 2>/dev/null | sed -n '/^Commands/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'
}

# The options of a command ("": those of every command), one a line.
_convstorectl_options() {
    "$1" ${2:+"$2"} --help 2>/dev/null | grep -oE '(^|[^a-z-])--[a-z][a-z-]*' | grep -oE -e '--.*' | sort -u
}

# What may follow a command, such as list, one a line.
_convstorectl_actions() {
    "$1" "$2" --help 2>/dev/null | sed -nE "1,/^\$/s/.*convstorectl $2 \[?([a-z]+).*/\1/p"
}

_convstorectl() {
    local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local command= i

    # The first word that is neither an option nor the value of one.
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --socket | --control | --timeout) ((i++)) ;;
        -*) ;;
        *) command=${COMP_WORDS[i]} && break ;;
        esac
    done
    COMPREPLY=()
    case $before in
    --socket | --control) ;; # a path
    --timeout) return ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_convstorectl_options "$program" "$command")" -- "$word")
            return
        elif [[ -z $command ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_convstorectl_commands "$program")" -- "$word")
            return
        fi
        ;;
    esac
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(
        compgen -W "${command:+$(_convstorectl_actions "$program" "$command")}" -- "$word"
        compgen -f -- "$word"
    )
}

complete -F _convstorectl convstorectl
