"""The programs that run in a sandbox, in POSIX sh: dash, bash and the sh of busybox run them.

The argument list of a program is constant, since the audit log of an API server records it: everything else, such as the
command and its environment, travels over its input. `BOOTSTRAP` reads a script of a given number of lines and runs it.
It reads with `read -r`, which takes no more than a line from a pipe. Before that it keeps the variables of the sandbox, which
may have the names of its own: the command gets them as they were.

An exec is a directory:

- `payload`: a digest of what was asked for, so that the same id is not used for something else.
- `o.<offset>`, `e.<offset>`: segments of stdout and stderr. The name has the offset of the first byte, in 15 digits, so that
  names sort by offset. The oldest segments are removed.
- `i/<offset>`: accepted input, a line with its length and its bytes as escapes of printf, or the name of a file with them.
  Whoever creates the file has the offset. `i.fed`: how many bytes the command got. `i.end`: the offset of the end. `i.poke`: a
  FIFO that wakes who feeds the command.
- `pid`: the process group of the command. `exit`: the exit code and how it came about, renamed into place.
- With a terminal: `command`, the program that runs on it; `tty`, its path; `size`, its rows and columns.
"""

import shlex

from sandbox_server.access import terminals
from sandbox_server.domain.execs import Start

SEGMENT = 1 << 20
"""Bytes after which a segment is followed by another one. A segment is at most twice as long."""
KEPT = 8 << 20
"""Bytes of a channel that are kept at least, but for the oldest segment of them."""
PENDING_MOST = 1 << 20
"""Bytes of input that are accepted before the command has read them."""
POKED = 1 << 14
"""Bytes of such input up to which a poke is sent for each part: a pipe has room for them. Who feeds the command looks for more
parts before it waits."""
EXECS_MOST = 64
"""Execs of a sandbox. The oldest that have ended make room for new ones."""

_READ = """
exported=$(export -p)
n=0; s=
IFS= read -r n || exit 125
while [ "$n" -gt 0 ]; do
    IFS= read -r l || exit 125
    s="$s$l
"
    n=$((n-1))
done
eval "$s"
"""

BOOTSTRAP = ("/bin/sh", "-c", _READ)

_COMMON = """
umask 077
base=${SANDBOX_ACCESS:-/tmp/.sandbox-access}
number() { n=${1##*.}; n=${n##*/}; n=${n#"${n%%[!0]*}"}; n=${n:-0}; }
size() { n=$(wc -c 2>/dev/null <"$1"); n=$((${n:-0})); }
padded() { p=000000000000000$1; p=${p#"${p%???????????????}"}; }
nap() { sleep 0.05 2>/dev/null || sleep 1; }
last() { f=; for f in "$1".*; do :; done; [ -f "$f" ] && [ ! -L "$f" ]; }
length() { if last "$1"; then number "$f"; from=$n; size "$f"; n=$((from+n)); else n=0; fi; }
part() {
    step=0 data=
    [ -f "i/$1" ] && read -r step data <"i/$1" || return 1
    case $step in '' | 0* | *[!0-9]* | ??????????*) return 1 ;; esac
}
"""

# Nothing here is started with `&` that the command descends from: a shell has such a process ignore SIGINT for ever.
#
# What is started must not hold the output of this program, which would never end: `supervise` gives it up before. A shell
# keeps a copy of what a redirection of a function replaces, so that it has none.
#
# `pump` copies its input to the segments of a channel until it ends. `dd` writes what it has read at once, and ends after so
# many reads. Where nothing can be written, such as on a full disk, the output is dropped: a command must not hang.
# `feed` copies the accepted input to the command, in the order of the offsets.
_START = (
    _COMMON
    + """
pump() {
    at=0
    while :; do
        padded $at; seg=$1.$p; n=0
        while [ $n -lt $segment ]; do
            was=$n
            dd bs=4096 count=256 2>/dev/null >>"$seg" || { cat >/dev/null; break 2; }
            size "$seg"
            [ $n -gt $was ] || break 2
        done
        at=$((at+n))
        for g in "$1".*; do number "$g"; [ $((n+2*segment)) -le $((at-kept)) ] || break; rm -f "$g"; done
    done
    : >"$1-end"
}
feed() {
    exec 5<>i.poke
    at=0; spent=
    while :; do
        while part $at; do
            case $data in
            \\\\*) printf "$data" ;;
            *) cat "i/$data" && spent="$spent i/$data" ;;
            esac || exit
            spent="$spent i/$at"; at=$((at+step)); echo $at 1<>i.fed
            [ ${#spent} -lt 1000 ] || { rm -f $spent; spent=; }
        done
        if [ -f i.end ] && IFS= read -r end <i.end && [ "$end" -le $at ]; then
            [ -n "$terminal" ] || exit
            printf '\\004'; while read -r end <&5; do :; done
        fi
        read -r end <&5 || nap
    done
}
limit() {
    i=0
    while [ $i -lt $timeout ]; do sleep 1; i=$((i+1)); done
    : >timeout
    IFS= read -r n <pid
    kill -s TERM -- -$n || kill -s TERM $n
    sleep 5
    kill -s KILL -- -$n || kill -s KILL $n
}
supervise() {
    trap : TERM INT HUP QUIT
    echo started >&3
    exec 3>&- </dev/null >/dev/null 2>&1
    pump o <o &
    if [ -n "$terminal" ]; then : >e-end; else pump e <e & fi
    feeder=; [ -z "$stdin" ] || { feed >in & feeder=$!; }
    timer=; [ $timeout -eq 0 ] || { limit & timer=$!; }
    if [ -n "$terminal" ]; then
        (run) <in >o 2>&1
        code=$?
        case $maker in busybox*) code=137; [ ! -f code ] || read -r code <code ;; esac
    else
        (run) <in >o 2>e
        code=$?
    fi
    kill $feeder $timer
    i=0
    while [ $i -lt 20 ] && ! { [ -f o-end ] && [ -f e-end ]; }; do i=$((i+1)); nap; done
    why=exit; [ -f timeout ] && why=timeout
    echo "$code $why" >exit.new && mv exit.new exit
    wait
}
d=$base/$id
group=$(command -v setsid)
mkdir -p "$base"
if ! mkdir "$d" 2>/dev/null; then
    i=0; while [ $i -lt 100 ] && [ ! -f "$d/payload" ]; do i=$((i+1)); nap; done
    found=; IFS= read -r found <"$d/payload"
    echo "known $found"; exit 0
fi
set -- "$base"/*
if [ $# -gt $most ]; then
    for x in $(ls -tr "$base"); do
        [ $# -gt $most ] || break
        if [ -f "$base/$x/exit" ]; then rm -rf "${base:?}/$x"; shift; fi
    done
    if [ $# -gt $most ]; then rm -rf "$d"; echo full; exit 0; fi
fi
cd "$d" && mkdir i && mkfifo o e || exit 125
if [ -n "$stdin" ]; then mkfifo in i.poke; else ln -s /dev/null in; fi
if [ -n "$terminal" ]; then printf '%s\\n' "$terminal" >command; echo "$window" >size; fi
echo "$payload" >payload.new && mv payload.new payload
exec 3>&1
(supervise) | :
"""
)

# The conversation with an exec that exists: a line asks, a line answers, and the data that it announces follows.
_TALK = (
    _COMMON
    + """
cd "$base/$id" 2>/dev/null && [ -f payload ] || { echo unknown; exit 0; }
echo here
at=0
fed() { fed=0; [ -f i.fed ] && read -r fed <i.fed; fed=${fed:-0}; [ "$at" -ge "$fed" ] || at=$fed; }
accepted() {
    while :; do
        fed; while part $at; do at=$((at+step)); done
        was=$at; fed; [ "$at" -ne "$was" ] || break
    done
}
# Takes the offset $a for a part of length $b unless it is taken. Answers.
take() {
    accepted
    if [ ! -p in ] || [ -f i.end ] || [ -f exit ]; then echo "ended $at"
    elif [ $a -ne $at ]; then echo "at $at"
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
poke() { [ $((a-fed)) -ge $poked ] || [ ! -p i.poke ] || echo 1<>i.poke; }
oldest() { set -- "$1".*; n=0; [ -f "$1" ] && number "$1"; }
while read -r ask a b c; do
    case $ask in
    state)
        end=-; [ -f exit ] && IFS= read -r end <exit
        length o; o=$n; length e; e=$n; oldest o; of=$n; oldest e; ef=$n; accepted
        r=0 c=0; [ ! -f size ] || read -r r c <size
        echo "state $of $o $ef $e $at $r $c $end" ;;
    read)
        seg=
        for f in "$a".*; do number "$f"; [ $n -le $b ] || break; seg=$f; done
        n=0
        if [ -f "$seg" ] && [ ! -L "$seg" ]; then
            number "$seg"; skip=$((b-n))
            exec 3<"$seg"; size "$seg"; n=$((n-skip)); [ $n -le $c ] || n=$c; [ $n -gt 0 ] || n=0
            echo "data $n"
            [ $n -eq 0 ] || tail -c +$((skip+1)) <&3 | head -c $n
            exec 3<&-
        else
            echo "data 0"
        fi ;;
    type) take "$c" ;;
    write)
        dd bs=$b count=1 iflag=fullblock of=i/$$.$a 2>/dev/null
        take $$.$a || rm -f i/$$.$a ;;
    end)
        accepted
        if [ $a -eq $at ]; then [ -f i.end ] || { echo $a >i.last && mv i.last i.end; fed; poke; }; fi
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

_LIST = (
    _COMMON
    + """
for x in "$base"/*; do
    [ -f "$x/payload" ] || continue
    end=-; [ -f "$x/exit" ] && IFS= read -r end <"$x/exit"
    echo "${x##*/} $end"
done
echo end
"""
)


def sent(script: str) -> bytes:
    """Returns what `BOOTSTRAP` reads to run a script."""
    text = script if script.endswith("\n") else script + "\n"
    return b"%d\n" % text.count("\n") + text.encode()


def assigned(**values: str | int) -> str:
    """Returns the lines that give variables of a script their values."""
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


# The function that becomes the command. It begins in the directory in which the primitive began. The variables of the
# sandbox may have the names of those here, and are set after these were read.
_RUN = """
here=$PWD
run() {
trap - TERM INT HUP QUIT
set -- "$here" "$d" "$group" "$maker" "$python"
eval "$exported"
cd -- "$1"
umask 022
"""

# The shell in between writes down its process id, which is then that of the command and of its group.
_EXEC = """exec $3 /bin/sh -c 'echo $$ >"$0/pid"; exec "$@"' "$2\""""


def start(exec_id: str, payload: str, asked: Start) -> bytes:
    """Returns the script that starts a command unless its exec exists, and prints `started`, `known PAYLOAD`, or `full`."""
    values = assigned(
        id=exec_id,
        payload=payload,
        stdin="1" if asked.stdin or asked.terminal else "",
        timeout=asked.timeout_seconds,
        segment=SEGMENT,
        kept=KEPT,
        most=EXECS_MOST,
    )
    prepare = f"cd -- {shlex.quote(asked.folder)} || exit 126\n" if asked.folder else ""
    prepare += "".join(f"export {name}={shlex.quote(value)}\n" for name, value in asked.env.items())
    command = shlex.join(asked.command)
    if asked.terminal is None:
        head, become = "terminal= maker= python=\n", f"{prepare}{_EXEC} {command}\n"
    else:
        head, become = terminals.found(asked.terminal, f"{prepare}exec {command}\n"), terminals.MAKE
    return sent(f"{values}{head}{_RUN}{become}}}\n{_START}")


def talk(exec_id: str) -> bytes:
    """Returns the script of a conversation with an exec. It prints `here` or `unknown`, and then answers line by line."""
    return sent(assigned(id=exec_id, pending=PENDING_MOST, poked=POKED) + _TALK)


def listed() -> bytes:
    """Returns the script that prints a line for each exec: its id, and its end or `-`."""
    return sent(_LIST)
