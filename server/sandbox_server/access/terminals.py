"""The terminal of a command, made inside the sandbox: it survives every cut, and any replica serves it.

`script` makes it: that of util-linux, which Debian and Fedora have, or that of busybox. Where there is none, Python does.
"""

import shlex

from sandbox_server.domain.execs import Terminal

# Sets what makes the terminal, with its path: the command may have another search path.
_FIND = """
maker=
if command -v stty >/dev/null; then
    case $(script -V </dev/null 2>&1) in
    *util-linux*) maker="util-linux $(command -v script)" ;;
    *)
        if command -v python3 >/dev/null; then maker="python $(command -v python3)"
        elif command -v script >/dev/null; then maker="busybox $(command -v script)"; fi ;;
    esac
fi
[ -n "$maker" ] || { echo unsupported; exit 0; }
"""

MAKE = """
export SANDBOX_TERMINAL="$2" SANDBOX_MAKER="${4%% *}" SANDBOX_SHELL="${SHELL+x$SHELL}" SHELL=/bin/sh
set -- "${4%% *}" "${4#* }" 'exec /bin/sh "$SANDBOX_TERMINAL/command"' "$5" "$3"
case $1 in
util-linux) exec $5 "$2" -q -e -c "$3" /dev/null ;;
busybox) exec $5 "$2" -q -c "$3" /dev/null ;;
python) exec $5 "$2" -I -S -c "$4" "$3" ;;
esac
"""
"""Becomes what makes the terminal. `script` runs a string with `$SHELL -c`; the program of the command is a file."""

_PYTHON = """
import os, pty, select, signal, sys
ends, wakes = os.pipe()
os.set_blocking(wakes, False)
signal.set_wakeup_fd(wakes)
signal.signal(signal.SIGCHLD, lambda *_: None)
child, terminal = pty.fork()
if child == 0:
    os.execv("/bin/sh", ["sh", "-c", sys.argv[1]])
os.set_blocking(terminal, False)
typed, more, status, rounds = b"", b"more", None, 1000
while rounds:
    watched = [terminal, ends, 0] if more and len(typed) < 65536 else [terminal, ends]
    readable, writable, _ = select.select(watched, [terminal] if typed else [], [], None if status is None else 0.02)
    if 0 in readable:
        more = os.read(0, 65536)
        typed += more
    if writable:
        typed = typed[os.write(terminal, typed):]
    if terminal in readable:
        try:
            printed = os.read(terminal, 65536)
        except OSError:
            break
        while printed:
            printed = printed[os.write(1, printed):]
    elif status is not None:
        break
    if status is not None:
        rounds -= 1
    elif ends in readable:
        os.read(ends, 100)
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
if status is None:
    status = os.waitpid(child, 0)[1]
sys.exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
"""

# The terminal is noted before its size is set, and a size is noted before it is set on the terminal: none is missed.
# `script` of busybox does not pass the exit code on.
_COMMAND = """
set -- "$SANDBOX_TERMINAL" "$SANDBOX_MAKER"
case $SANDBOX_SHELL in x*) SHELL=${SANDBOX_SHELL#x} ;; *) unset SHELL ;; esac
unset SANDBOX_TERMINAL SANDBOX_MAKER SANDBOX_SHELL
tty >"$1/tty.new" && mv "$1/tty.new" "$1/tty"
set -- "$1" "$2" $(cat "$1/size")
stty echo rows "$3" cols "$4"
stty iutf8 2>/dev/null
export TERM="${TERM:-xterm-256color}"
echo $$ >"$1/pid"
case $2 in
busybox) trap : INT QUIT TERM HUP; (trap - INT QUIT TERM HUP; run); echo $? >"$1/code" ;;
*) run ;;
esac
"""


def found(terminal: Terminal, become: str) -> str:
    """Returns the lines that find what makes the terminal, or print `unsupported`. `become` are those that become the command."""
    text = f"run() {{\n{become}}}\n{_COMMAND}"
    size = f"{terminal.rows} {terminal.cols}"
    return f"terminal={shlex.quote(text)}\nwindow={shlex.quote(size)}\npython={shlex.quote(_PYTHON)}\n{_FIND}"
