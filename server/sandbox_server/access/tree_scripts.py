"""The programs that list, make, move and remove files, as those of `file_scripts`.

What changes something says first what it has found, and waits for the line `go`: whether a repeated request has anything
left to do is decided by that.
"""

from sandbox_server.access import file_scripts

# A name has no slash: one ends it in what `stat` prints. The names are the arguments of the shell, so that a caller asks for
# them by number.
_LIST = (
    file_scripts.COMMON
    + r"""
at "$path"
e=$(stat "$p/." 2>&1 >/dev/null) || fail "$e"
[ -r "$p" ] && cd -P "${p:-/}" 2>/dev/null || fail ': Permission denied'
set -- * .[!.]* ..?*
say names "$@" ''
while IFS= read -r k; do
    all=
    for i in $k; do all="$all \"./\${$i}\""; done
    eval "stat -c '%f %s %Y %i %d %y %n/' $all" 2>/dev/null
    say ''
    for i in $k; do
        eval "f=./\${$i}"
        if [ -L "$f" ]; then printf '%s\0' $i; readlink -n "$f"; say ''; fi
    done
    say ''
done
"""
)

_CHANGE = (
    file_scripts.COMMON
    + r"""
seen() { if e=$(stat -c '%f %s %Y %i %d %y' "$1" 2>&1); then say there "$e"; else say not "$e"; fi; }
try() { e=$("$@" 2>&1 >/dev/null) || fail "$e"; }
told() { IFS= read -r k && [ "$k" = go ] || exit; }
at "$path"
seen "$p"
"""
)

_MAKE = (
    _CHANGE
    + r"""
told
if [ ! -d "$p" ]; then
    try mkdir $parents ${mode:+-m $mode} "$p"
fi
look "$p" -L
say file "$s" ''
"""
)

# A directory is renamed before it is removed, so that it goes at once. What cannot be removed comes back.
_REMOVE = (
    _CHANGE
    + r"""
told
if [ -L "$p" ] || [ ! -d "$p" ]; then
    try rm -f "$p"
elif [ -z "$recursive" ]; then
    try rmdir "$p"
else
    t=${p%/*}/.sandbox-remove-$tag-$$
    try mv -f "$p" "$t"
    e=$(rm -rf "$t" 2>&1) || { mv -f "$t" "$p" 2>/dev/null; fail "$e"; }
fi
say done
"""
)

# `mv` would move into a directory, and copy to another file system. That of uutils loses a directory that is moved into itself.
_MOVE = (
    _CHANGE
    + r"""
from=$p
at "$to"
seen "$p"
told
if [ -e "$p" ] || [ -L "$p" ]; then
    [ -n "$overwrite" ] || fail ': File exists'
    if [ -L "$p" ]; then
        [ ! -d "$p" ] || try rm -f "$p"
    elif [ -d "$p" ]; then
        [ ! -L "$from" ] && [ -d "$from" ] || fail ': Is a directory'
        try rmdir "$p"
    else
        [ -L "$from" ] || [ ! -d "$from" ] || fail ': Not a directory'
    fi
fi
if [ -d "$from" ] && [ ! -L "$from" ]; then
    k=$(cd -P "$from" 2>/dev/null && pwd -P)
    case $(cd -P "${p%/*}/." 2>/dev/null && pwd -P)/ in "$k"/*) fail ': Invalid argument' ;; esac
fi
e=$(stat -c %d "${p%/*}/." 2>&1) || fail "$e"
[ "$e" = "$(stat -c %d "${from%/*}/.")" ] || fail ': Invalid cross-device link'
try mv -f "$from" "$p"
look "$p"
say file "$s"
[ ! -L "$p" ] || readlink -n "$p"
say ''
"""
)


def listed(path: bytes) -> bytes:
    """Returns the script that answers with `names`, each name and an empty field.

    A name may be one of a pattern that matches nothing. A line of numbers is answered with what `stat` has printed of these
    names, with the number and the target of each that is a link, and with an empty field.
    """
    return file_scripts.sent(path, _LIST)


def made(path: bytes, parents: bool, mode: int | None) -> bytes:
    """Returns the script that makes a directory, and answers with `file`, the directory and an empty field."""
    return file_scripts.sent(path, _MAKE, parents="-p" if parents else "", mode="" if mode is None else f"{mode:o}")


def removed(path: bytes, recursive: bool, incarnation: str) -> bytes:
    """Returns the script that removes what is at a path, and answers with `done`."""
    tag = file_scripts.tag(incarnation)
    return file_scripts.sent(path, _REMOVE, recursive="1" if recursive else "", tag=tag)


def moved(path: bytes, to: bytes, overwrite: bool) -> bytes:
    """Returns the script that renames what is at a path, after a second answer about what it has found at the new one.

    It answers with `file`, what is there then, and the target of a link.
    """
    given = f'to="{file_scripts.quoted(to)}"\n'
    return file_scripts.sent(path, given + _MOVE, overwrite="1" if overwrite else "")
