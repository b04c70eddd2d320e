r"""The programs that work on the files of a sandbox, in POSIX sh, with the tools of GNU, busybox or uutils.

`scripts.BOOTSTRAP` runs them, and everything about a file travels over its input. A path is any bytes but NUL: in a script
each byte that could mean something is written as `\0ooo`, so that a script is ASCII, and `printf` makes the path of it.

A program answers with fields that end with NUL, which no path contains. The first is the directory of the sandbox's disk,
to which relative paths are relative: /home/agent, or without isolation that in which the program began. What `stat` prints is a field as it is. `failed` is followed by what a tool said
of it, in English, since that is what tells the cause.

A file is written beside its place, to a name with the incarnation and the process id of the program. What writes it is not
the program itself, which is killed when its connection closes, but a process that it has started: that one finds the end of
its input, and removes the file. What it could not remove, since the sandbox was killed, the next one removes that writes in
the same directory. The same holds for directories that are being removed.
"""

import hashlib

from sandbox_server.access import scripts

BLOCK = 256 * 1024
"""Bytes that are read and written at once in a sandbox."""
LINKS_MOST = 40
"""Symbolic links that a path may lead through, as the kernel's limit."""

# Also has every byte be a character.
_ENGLISH = "LC_ALL=C; TZ=UTC0; export LC_ALL TZ\n"
COMMON = r"""
say() { printf '%s\0' "$@"; }
fail() { say failed "$1"; exit; }
at() { p=${1%.}; case $p in /*) ;; *) p=${PWD%/}/$p ;; esac; [ "$p" = / ] || p=${p%/}; }
look() { s=$(stat $2 -c '%f %s %Y %i %d %y' "$1" 2>&1) || fail "$s"; }
regular() {
    [ ! -d "$1" ] || fail ': Is a directory'
    [ ! -e "$1" ] || [ -f "$1" ] || fail ': Not a regular file'
}
[ -n "$SANDBOX_ACCESS" ] || cd /home/agent 2>/dev/null
say "$PWD"
"""

_USAGE = (
    COMMON
    + r"""
s=$(stat -f -c '%S %b %f %c %d' . 2>&1) || fail "$s"
say usage "$s"
"""
)

_STAT = (
    COMMON
    + r"""
at "$path"
look "$p" $follow
say file "$s"
[ -n "$follow" ] || [ ! -L "$p" ] || readlink -n "$p"
say ''
"""
)

# A file that says it is empty may have content, such as those in /proc. The `head` of busybox copies byte by byte.
_READ = (
    COMMON
    + r"""
piece() { dd if=/proc/self/fd/3 bs=$1 iflag=fullblock,skip_bytes skip=$2 $3 2>/dev/null; }
copy() {
    opened=1
    look /proc/self/fd/3 -L
    say file "$s" ''
    set -- $s
    n=$limit
    [ $2 -eq 0 ] || [ $n -le $(($2-offset)) ] || n=$(($2-offset))
    if [ $2 -eq 0 ]; then
        piece $block $offset | head -c $n
    else
        [ $n -lt $block ] || piece $block $offset count=$((n/block))
        offset=$((offset+n/block*block)); n=$((n%block))
        [ $n -le 0 ] || piece $n $offset count=1
    fi
    look /proc/self/fd/3 -L
    say '' $mark "$s"
}
at "$path"
look "$p" -L
regular "$p"
[ -r "$p" ] || fail ': Permission denied'
copy 3<"$p"
[ -n "$opened" ] || fail ': No such file or directory'
"""
)

_WRITE = (
    COMMON
    + r"""
drop() { rm -f "$t"; say failed "$1"; cat >/dev/null; exit; }
writes() {
    trap 'rm -f "$t"' EXIT
    trap '' PIPE
    say ready
    while IFS= read -r k && [ "$k" != end ]; do
        b=$k c=1
        [ $((k%block)) -ne 0 ] || { b=$block c=$((k/block)); }
        e=$(dd bs=$b count=$c iflag=fullblock of="$t" oflag=append conv=notrunc 2>&1) || drop "$e"
        say taken
    done
    [ "$k" = end ] || exit
    e=$(dd if=/dev/null of="$t" conv=notrunc,fsync 2>&1) || drop "$e"
    was=
    if [ -e "$n" ]; then
        chown "$(stat -c %u:%g "$n")" "$t" 2>/dev/null
        [ -n "$mode" ] || mode=$(stat -c %a "$n")
        look "$n"; was=$s
    fi
    e=$(chmod ${mode:-644} "$t" 2>&1) || drop "$e"
    look "$t"
    say written "$s" "$was"
    IFS= read -r k
    [ "$k" = keep ] || exit
    regular "$n"
    e=$(mv -f "$t" "$n" 2>&1) || drop "$e"
    look "$n"
    say file "$s" ''
}
at "$path"
i=0
while [ -L "$p" ]; do
    i=$((i+1)); [ $i -le $links ] || fail ': Too many levels of symbolic links'
    e=$(readlink -n "$p" && echo .) || fail ': No such file or directory'
    e=${e%.}
    case $e in /*) p=$e ;; *) p=${p%/*}/$e ;; esac
    while [ "$p" != "${p%/}" ]; do p=${p%/}; done
done
regular "${p:-/}"
d=${p%/*}; n=./${p##*/}
e=$(stat "$d/." 2>&1 >/dev/null) || fail "$e"
cd -P "${d:-/}" 2>/dev/null || fail ': Permission denied'
for t in ./.sandbox-write-????????????????-[0-9]* ./.sandbox-remove-????????????????-[0-9]*; do
    case $t in *-$tag-*) kill -0 "${t##*-}" 2>/dev/null && continue ;; esac
    if [ -d "$t" ]; then rm -rf "$t" </dev/null >/dev/null & else rm -f "$t"; fi
done
t=./.sandbox-write-$tag-$$
e=$({ : >"$t"; } 2>&1) || fail "$e"
(writes)
exit
"""
)


def quoted(path: bytes) -> str:
    """Returns the word of a script that is the path and a dot, without which a shell would cut line ends off."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_"
    return "$(printf %b '" + "".join(chr(one) if one in plain else f"\\0{one:03o}" for one in path) + ".')"


def sent(path: bytes, script: str, **values: str | int) -> bytes:
    """Returns what `scripts.BOOTSTRAP` reads to run a script about a path."""
    return scripts.sent(_ENGLISH + f'path="{quoted(path)}"\n' + scripts.assigned(**values) + script)


def usage() -> bytes:
    """Returns the script that answers with `usage`, and of the disk of the sandbox the size of a block, how many blocks there
    are and are free, and how many inodes."""
    return sent(b"", _USAGE)


def stat(path: bytes, follow: bool) -> bytes:
    """Returns the script that answers with `file`, what there is at a path, and the target of a link."""
    return sent(path, _STAT, follow="-L" if follow else "")


def read(path: bytes, offset: int, limit: int, mark: str) -> bytes:
    """Returns the script that answers with `file`, the file and an empty field; then with its content and, after NUL, with
    `mark` and the file as it is then."""
    return sent(path, _READ, offset=offset, limit=limit, mark=mark, block=BLOCK, opened="")


def write(path: bytes, mode: int | None, incarnation: str) -> bytes:
    """Returns the script that takes the content of a file.

    It answers with `ready`. A line with a number of bytes and these bytes are answered with `taken`. `end` is answered with
    `written`, the new file and the former one, the line `keep` with `file`, the file that is then there, and an empty field.
    """
    values = {"mode": "" if mode is None else f"{mode:o}", "tag": tag(incarnation)}
    return sent(path, _WRITE, block=BLOCK, links=LINKS_MOST, **values)


def tag(incarnation: str) -> str:
    """Returns what the names of files beside their places have of an incarnation."""
    return hashlib.sha256(incarnation.encode()).hexdigest()[:16]
