"""The programs that run in a sandbox, in POSIX sh: dash, bash and the sh of busybox run them.

The argument list of a program is constant, since the audit log of an API server records it: everything else, such as the
command and its environment, travels over its input. `BOOTSTRAP` reads a script of a given number of lines and runs it.
It reads with `read -r`, which takes no more than a line from a pipe. Before that it keeps the variables of the sandbox, which
may have the names of its own: the command gets them as they were.

An exec is a directory:

- `payload`: a digest of what was asked for, so that the same id is not used for something else.
- `o.<offset>`, `e.<offset>`: segments of stdout and stderr. The name has the offset of the first byte, in 15 digits, so that
  names sort by offset. The oldest segments are removed.
- `printed.o`, `printed.e`: how many bytes were printed.
- `done`: a FIFO on which is said that all of a channel was copied.
- `w/<pid>`: a FIFO that wakes who follows, with `.o` and `.e` for how much of a channel that has seen.
- `i/<offset>`: accepted input, a line with its length and its bytes as escapes of printf, or the name of a file with them.
  Whoever creates the file has the offset. `i.fed`: how many bytes the command got. `i.end`: the offset of the end. `i.poke`: a
  FIFO that wakes who feeds the command.
- `pid`: the process group of the command. `exit`: the exit code and how it came about, renamed into place.
- With a terminal: `command`, the program that runs on it; `tty`, its path; `size`, its rows and columns.

`printed.*`, `i.fed` and `w/<pid>.*` are written in place, always in 15 digits, while others read them byte by byte: what is
read has the first digits of an older number and the last ones of a newer one, and is never more than the newer one.
"""

import shlex

from sandbox_server.access import terminals
from sandbox_server.domain.execs import Start

SEGMENT = 1 << 20
"""Bytes after which a segment is followed by another one. A segment is at most twice as long."""
KEPT = 8 << 20
"""Bytes of a channel that are kept at least, but for the oldest segment of them."""
MEMORY_EVENTS = "/sys/fs/cgroup/memory.events"
"""Where the kernel counts the processes of a container that it killed for using too much memory."""
EAGER = 16
"""Parts of the output of a channel of which each is passed on at once. Later ones wait for 10 ms if they are small."""
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

COMMON = """
umask 077
base=${SANDBOX_ACCESS:-/tmp/.sandbox-access}
number() { n=${1##*.}; n=${n##*/}; n=${n#"${n%%[!0]*}"}; n=${n:-0}; }
padded() { p=000000000000000$1; p=${p#"${p%???????????????}"}; }
nap() { sleep 0.05 2>/dev/null || sleep 1; }
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
# A connection that is cut kills this program. `launch` goes on then, in a process of its own, so that a start has happened
# whole or not at all.
#
# `pump` copies its input to the segments of a channel until it ends. Where nothing can be written, such as on a full disk, the
# output is dropped: a command must not hang. It says how much was printed, and then wakes those who follow and have seen all
# that was printed before. The others look before they wait, so that a slow one has no more than a poke in its FIFO. A command
# that prints often in small parts gets them together after a while.
# `late` ends the wait for the rest of the output: what a command has left running may hold it for ever. On a busy machine
# the rest takes a while, so that it must have been silent.
# `kills` reads how many processes were killed for using too much memory.
# `feed` copies the accepted input to the command, in the order of the offsets.
_START = (
    COMMON
    + """
pump() {
    at=0; parts=0
    while :; do
        padded $at; seg=$1.$p; n=0
        while [ $n -lt $segment ]; do
            got=$(LC_ALL=C dd bs=65536 count=1 2>&1 >>"$seg") || { cat >/dev/null; break 2; }
            got=${got##*records out?}; got=${got%% *}
            case $got in
            0) break 2 ;;
            '' | *[!0-9]*) got=$(wc -c <"$seg"); got=$((got-n)); [ $got -gt 0 ] || break 2 ;;
            esac
            n=$((n+got)); at=$((at+got)); parts=$((parts+1))
            padded $at; echo $p 1<>"printed.$1"
            poke "$1" $((at-got))
            [ $parts -lt $eager ] || [ $got -ge 4096 ] || sleep 0.01
        done
        for g in "$1".*; do number "$g"; [ $((n+2*segment)) -le $((at-kept)) ] || break; rm -f "$g"; done
    done
    echo >&6
}
poke() {
    for f in w/*."$1"; do
        [ -f "$f" ] && read -r seen <"$f" && [ "$seen" -ge $2 ] && [ -p "${f%.*}" ] && echo 1<>"${f%.*}"
    done
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
            spent="$spent i/$at"; at=$((at+step)); padded $at; echo $p 1<>i.fed
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
    sleep $timeout & p=$!
    trap "kill $p; exit" TERM
    wait $p
    trap - TERM
    : >timeout
    IFS= read -r n <pid
    kill -s TERM -- -$n || kill -s TERM $n
    sleep 5
    kill -s KILL -- -$n || kill -s KILL $n
}
kills() {
    killed=0
    [ ! -f $memory ] || while read -r name n; do [ "$name" != oom_kill ] || killed=$n; done <$memory
}
late() {
    quiet=0; before=
    while [ $quiet -lt 3 ]; do
        sleep 0.5 2>/dev/null || sleep 1
        now=
        for f in printed.*; do [ ! -f "$f" ] || { read -r n <"$f"; now="$now $n"; }; done
        if [ "$now" = "$before" ]; then quiet=$((quiet+1)); else quiet=0; before=$now; fi
    done
    echo late >&6
}
supervise() {
    exec 3>&- </dev/null >/dev/null 2>&1
    exec 6<>done
    pumps=1
    pump o <o &
    [ -n "$terminal" ] || { pumps=2; pump e <e & }
    feeder=; [ -z "$stdin" ] || { feed >in & feeder=$!; }
    timer=; [ $timeout -eq 0 ] || { limit & timer=$!; }
    kills
    if [ -n "$terminal" ]; then
        (run) <in >o 2>&1 6>&-
        code=$?
        case $maker in busybox*) code=137; [ ! -f code ] || read -r code <code ;; esac
    else
        (run) <"$input" >o 2>e 6>&-
        code=$?
    fi
    kill $feeder $timer
    late & late=$!
    while [ $pumps -gt 0 ] && read -r word <&6 && [ -z "$word" ]; do pumps=$((pumps-1)); done
    kill $late
    why=exit; [ $code -ne 137 ] || { was=$killed; kills; [ $killed = $was ] || why=memory; }
    [ ! -f timeout ] || why=timeout
    echo "$code $why" >exit.new && mv exit.new exit
    for f in w/*; do [ ! -p "$f" ] || echo 1<>"$f"; done
    wait
}
launch() {
    trap : TERM INT HUP QUIT PIPE
    [ -d "$base" ] || mkdir -p "$base"
    if ! mkdir "$d" 2>/dev/null; then
        i=0; while [ $i -lt 100 ] && [ ! -f "$d/payload" ]; do i=$((i+1)); nap; done
        found=; IFS= read -r found <"$d/payload"
        echo "known $found" >&3; exit
    fi
    set -- "$base"/*
    if [ $# -gt $most ]; then
        for x in $(ls -tr "$base"); do
            [ $# -gt $most ] || break
            if [ -f "$base/$x/exit" ]; then rm -rf "${base:?}/$x"; shift; fi
        done
        if [ $# -gt $most ]; then rm -rf "$d"; echo full >&3; exit; fi
    fi
    input=/dev/null; [ -z "$stdin" ] || input=in
    cd "$d" && mkdir i w && mkfifo o e done ${stdin:+in i.poke} || exit
    if [ -n "$terminal" ]; then printf '%s\\n' "$terminal" >command; echo "$window" >size; fi
    echo "$payload" >payload.new && mv payload.new payload
    echo started >&3
    supervise
}
d=$base/$id
group=$(command -v setsid)
exec 3>&1
(launch) | :
"""
)

_LIST = (
    COMMON
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
trap - TERM INT HUP QUIT PIPE
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
        eager=EAGER,
        memory=MEMORY_EVENTS,
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


def listed() -> bytes:
    """Returns the script that prints a line for each exec: its id, and its end or `-`."""
    return sent(_LIST)
