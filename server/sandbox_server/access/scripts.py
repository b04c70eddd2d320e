"""The programs that run in a sandbox, in POSIX sh: dash, bash and the sh of busybox run them.

The argument list of a program is constant, since the audit log of an API server records it: everything else, such as the
command and its environment, travels over its input. `BOOTSTRAP` reads a script of a given number of lines and runs it.
It reads with `read -r`, which takes no more than a line from a pipe. Before that it keeps the variables of the sandbox, which
may have the names of its own: the command gets them as they were.

An exec is a directory:

- `payload`: a digest of what was asked for, so that the same id is not used for something else.
- `o.<offset>`, `e.<offset>`: segments of stdout and stderr. The name has the offset of the first byte, in 15 digits, so that
  names sort by offset. The oldest segments are removed.
- `i/<offset>`: input that was accepted and is not read yet. `i.fed`: how many bytes were read. `i.end`: the offset of its end.
- `pid`: the process group of the command. `exit`: the exit code and how it came about, renamed into place.
"""

import shlex
from collections.abc import Mapping, Sequence

from sandbox_server.domain.execs import Start

SEGMENT = 1 << 20
"""Bytes after which a segment is followed by another one. A segment is at most twice as long."""
KEPT = 8 << 20
"""Bytes of a channel that are kept at least, but for the oldest segment of them."""
PENDING_MOST = 1 << 20
"""Bytes of input that are accepted before the command has read them."""
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
    at=0
    while :; do
        padded $at
        if [ -f i/$p ]; then
            size i/$p; step=$n
            cat i/$p || exit
            at=$((at+step)); echo $at >i.new && mv i.new i.fed && rm -f i/$p
        elif [ -f i.end ] && IFS= read -r end <i.end && [ "$end" -le $at ]; then
            exit
        else
            nap
        fi
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
    pump o <o & pump e <e &
    feeder=; [ -z "$stdin" ] || { feed >in & feeder=$!; }
    timer=; [ $timeout -eq 0 ] || { limit & timer=$!; }
    (run) <in >o 2>e
    code=$?
    kill $feeder $timer
    i=0
    while [ $i -lt 20 ] && ! { [ -f o-end ] && [ -f e-end ]; }; do i=$((i+1)); nap; done
    why=exit; [ -f timeout ] && why=timeout
    echo "$code $why" >exit.new && mv exit.new exit
    wait
}
d=$base/$id
group=; command -v setsid >/dev/null && group=setsid
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
if [ -n "$stdin" ]; then mkfifo in; else ln -s /dev/null in; fi
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
fed() { n=0; [ -f i.fed ] && IFS= read -r n <i.fed; at=${n:-0}; }
accepted() {
    while :; do
        fed; was=$at; n=$at; padded $n
        while [ -f i/$p ]; do size i/$p; at=$((at+n)); padded $at; done
        now=$at; fed; [ "$at" -eq "$was" ] && break
    done
    at=$now
}
oldest() { set -- "$1".*; n=0; [ -f "$1" ] && number "$1"; }
while read -r ask a b c; do
    case $ask in
    state)
        end=-; [ -f exit ] && IFS= read -r end <exit
        length o; o=$n; length e; e=$n; oldest o; of=$n; oldest e; ef=$n; accepted
        echo "state $of $o $ef $e $at $end" ;;
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
    write)
        t=i.$$
        dd bs=$b count=1 iflag=fullblock of=$t 2>/dev/null
        accepted; now=$at; fed; padded $a
        if [ ! -p in ] || [ -f i.end ] || [ -f exit ]; then rm -f $t; echo "ended $now"
        elif [ $a -ne $now ]; then rm -f $t; echo "at $now"
        elif [ $((now-at)) -ge $pending ]; then rm -f $t; echo "full $now"
        elif ln $t i/$p 2>/dev/null; then rm -f $t; echo "at $((a+b))"
        else rm -f $t; accepted; echo "at $at"; fi ;;
    end)
        accepted
        if [ $a -eq $at ]; then [ -f i.end ] || { echo $a >i.last && mv i.last i.end; }; fi
        echo "at $at" ;;
    signal)
        if [ -f exit ]; then echo ended
        elif [ ! -f pid ]; then echo starting
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


def start(exec_id: str, payload: str, asked: Start) -> bytes:
    """Returns the script that starts a command unless its exec exists, and prints `started`, `known PAYLOAD`, or `full`."""
    values = assigned(
        id=exec_id,
        payload=payload,
        stdin="1" if asked.stdin else "",
        timeout=asked.timeout_seconds,
        segment=SEGMENT,
        kept=KEPT,
        most=EXECS_MOST,
    )
    return sent(values + _run(asked.command, asked.env, asked.folder) + _START)


def _run(command: Sequence[str], env: Mapping[str, str], folder: str) -> str:
    """Returns the function that becomes the command. It begins in the directory in which the primitive began."""
    begin = f"cd -- {shlex.quote(folder)} || exit 126\n" if folder else ""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    # The shell in between writes down its process id, which is then that of the command and of its group.
    return (
        'here=$PWD\nrun() {\ntrap - TERM INT HUP QUIT\nset -- "$here" "$d" $group\neval "$exported"\ncd -- "$1"\numask 022\n'
        f"{begin}{exports}"
        """exec $3 /bin/sh -c 'echo $$ >"$0/pid.new" && mv "$0/pid.new" "$0/pid"; exec "$@"' "$2" """
        f"{shlex.join(command)}\n}}\n"
    )


def talk(exec_id: str) -> bytes:
    """Returns the script of a conversation with an exec. It prints `here` or `unknown`, and then answers line by line."""
    return sent(assigned(id=exec_id, pending=PENDING_MOST) + _TALK)


def listed() -> bytes:
    """Returns the script that prints a line for each exec: its id, and its end or `-`."""
    return sent(_LIST)
