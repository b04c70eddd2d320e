"""Makes symbolic links in a sandbox. The contract has no call for that, so that a command in the sandbox does it."""

from collections.abc import Iterator, Sequence

from sandboxctl.options import chosen

# Reads a path and what it leads to from a line each, in which every byte is an escape of `printf` and a dot keeps line ends.
_SCRIPT = r"""
LC_ALL=C; export LC_ALL
n=0
while IFS= read -r path && IFS= read -r to; do
    path=$(printf %b "$path"); path=${path%.}
    to=$(printf %b "$to"); to=${to%.}
    why=
    if [ -d "$path" ] && [ ! -L "$path" ]; then
        why='Is a directory'
    elif ! said=$({ rm -f "$path" && ln -s -- "$to" "$path"; } 2>&1); then
        why=${said##*: }; why=${why:-it could not be made}
    fi
    [ -z "$why" ] || printf '%s %s\n' $n "$why"
    n=$((n+1))
done
"""


def make(sandbox_id: str, namespace: str, links: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, str]]:
    """Makes links, each a path from the root and what it leads to. A file or link that is there is replaced.

    Yields the paths of those that could not be made, and why.
    """
    if not links:
        return
    lines = b"".join(_escaped(path) + _escaped(leads_to) for path, leads_to in links)
    done = chosen.client.run(sandbox_id, ["/bin/sh", "-c", _SCRIPT], input=lines, namespace=namespace)
    if done.exit_code != 0:
        yield from ((path, "the command in the sandbox has failed") for path, _ in links)
        return
    for line in done.stdout.splitlines():
        number, _, why = line.partition(b" ")
        if not number.isdigit() or int(number) >= len(links):
            raise ValueError("the sandbox gives an answer that is none: look at what is there")
        yield links[int(number)][0], why.decode(errors="replace")


def _escaped(data: bytes) -> bytes:
    return b"".join(b"\\0%03o" % byte for byte in data) + b".\n"
