"""The program of a conversation with an exec: it answers questions, and takes input."""

from sandbox_server.access import scripts

PENDING_MOST = 1 << 20
"""Bytes of input that are accepted before the command has read them."""
POKED = 1 << 14
"""Bytes of such input up to which a poke is sent for each part: a pipe has room for them. Who feeds the command looks for more
parts before it waits."""

OPEN = (
    scripts.COMMON
    + """
cd "$base/$id" 2>/dev/null && [ -f payload ] || { echo unknown; exit 0; }
echo here
at=0
fed() { n=; [ ! -f i.fed ] || read -r n <i.fed; number "$n"; fed=$n; [ "$at" -ge "$fed" ] || at=$fed; }
accepted() {
    while :; do
        fed; while part $at; do at=$((at+step)); done
        was=$at; fed; [ "$at" -ne "$was" ] || break
    done
}
printed() { n=; [ ! -f "printed.$1" ] || read -r n <"printed.$1"; number "$n"; }
oldest() { set -- "$1".*; n=0; [ ! -f "$1" ] || number "$1"; }
state() {
    oldest o; of=$n; printed o; ot=$n; oldest e; ef=$n; printed e; et=$n; accepted
    rows=0 cols=0; [ ! -f size ] || read -r rows cols <size
    end=-; [ ! -f exit ] || IFS= read -r end <exit
    echo "state $of $ot $ef $et $at $rows $cols $end"
}
"""
)
"""Goes to the directory of an exec, and prints `here` or `unknown`."""

# The conversation with an exec that exists: a line asks, a line answers, and the data that it announces follows.
_TALK = (
    OPEN
    + """
# Takes the offset $a for a part of length $b unless it is taken. Answers.
take() {
    accepted
    if [ ! -p in ] || [ -f i.end ] || [ -f exit ]; then echo "ended $at"
    elif [ $a -ne $at ]; then again; echo "at $at"
    elif [ $((at-fed)) -ge $pending ]; then echo "full $at"
    elif set -C; { printf "%s\\n" "$b $1" >i/$a; } 2>/dev/null; then
        set +C; at=$((a+b)); fed; poke; echo "at $at"; return
    else
        # Another writer has it, or had and ended in between.
        set +C; accepted
        [ $at -ne $a ] || { nap; accepted; [ $at -ne $a ] || rm -f i/$a; }
        echo "at $at"
    fi
    return 1
}
# Before a repeat of what was accepted, whose poke the end of another conversation may have prevented. Once is enough.
again() { [ -n "$again" ] || { again=1; fed; poke; }; }
poke() { [ $((a-fed)) -ge $poked ] || [ ! -p i.poke ] || echo 1<>i.poke; }
files=0 again=
while read -r ask a b c; do
    case $ask in
    state) state ;;
    type) take "$c" ;;
    write)
        files=$((files+1)); file=$$.$files
        dd bs=$b count=1 iflag=fullblock of=i/$file 2>/dev/null
        take $file || rm -f i/$file ;;
    end)
        accepted
        if [ $a -eq $at ]; then
            if [ -f i.end ]; then again; else echo $a >i.last && mv i.last i.end; fed; poke; fi
        fi
        echo "at $at" ;;
    resize)
        if [ ! -f size ]; then echo none
        else
            echo "$a $b" >size.new && mv size.new size
            tty=; [ -f exit ] || [ ! -f tty ] || IFS= read -r tty <tty
            case $tty in /dev/pts/*) stty -F "$tty" rows $a cols $b 2>/dev/null ;; esac
            echo sized
        fi ;;
    signal)
        if [ -f exit ]; then echo ended
        elif [ ! -s pid ]; then echo starting
        else IFS= read -r n <pid; kill -s $a -- -$n 2>/dev/null || kill -s $a $n 2>/dev/null; echo sent; fi ;;
    esac
done
"""
)


def talk(exec_id: str) -> bytes:
    """Returns the script, which prints `here` or `unknown`, and then answers line by line."""
    return scripts.sent(scripts.assigned(id=exec_id, pending=PENDING_MOST, poked=POKED) + _TALK)
