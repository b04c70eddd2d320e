"""The program that counts and hashes what is on a restored disk: see `docs/verification.md`.

It lists as `engines/local/counting.py` does. It needs a shell and the tools of POSIX with `stat -c` and `sha256sum`, as GNU and
busybox have them. Names are never part of a line that another tool may print in another way, or that a line break may cut.
"""

import re

from sandbox_server.domain.snapshot import Contents

ENDED = "/dev/termination-log"
"""Where the kubelet finds the last words of a container."""
_COUNTED = re.compile(r"counted (\d+) (\d+) (\d+) (\d+) (\d+) ([0-9a-f]{64})")
_FAILED = "failed "

# $1: the folder to count in, $2: an empty folder to work in, $3: where the result goes.
SCRIPT = r"""set -f
LC_ALL=C
# What some tools print in another way: a path with one of these is listed by its hash.
odd="*[\\\\$(printf '\r')
]*"
export LC_ALL odd
work=$2 result=$3
each='
sum() { sha256sum | cut -c 1-64; }
for f do
  n=$f
  case $f in $odd) n=#$(printf %s "$f" | sum) ;; esac
  if [ -L "$f" ]; then
    printf "l %s\nt %s  %s\n" "$n" "$(readlink "$f" | sum)" "$n"
  elif [ -d "$f" ]; then
    printf "d %s %s\n" "$(stat -c %a "$f")" "$n"
  elif [ -f "$f" ]; then
    printf "f %s %s\nh %s  %s\n" "$(stat -c "%a %s" "$f")" "$n" "$(sum <"$f")" "$n"
  else
    printf "o %s\n" "$n"
  fi
done'
listing() {
  cd "$1" &&
    find . ! -path . -type d ! -path "$odd" -exec stat -c 'd %a %n' {} + &&
    find . -type f ! -path "$odd" -exec stat -c 'f %a %s %n' {} + &&
    find . -type f ! -path "$odd" -exec sha256sum {} + >"$work/hashes" &&
    sed 's/^/h /' "$work/hashes" &&
    find . ! -path . \( -path "$odd" -o ! -type d ! -type f \) -exec sh -c "$each" sh {} +
}
listing "$1" >"$work/listing" 2>"$work/errors" && rm "$work/hashes" &&
  sort -S 128M -T "$work" "$work/listing" >"$work/sorted" 2>>"$work/errors"
code=$?
# A tool that was killed, such as for its memory, says nothing.
[ $code != 137 ] || exit $code
if [ $code != 0 ] || [ -s "$work/errors" ]; then
  printf 'failed %s' "$(head -n 3 "$work/errors" | cut -c 1-1000)" >"$result"
  exit 1
fi
counts=$(awk '{ n[$1]++ } $1 == "f" { b += $3 }
  END { printf "%.0f %.0f %.0f %.0f %.0f", n["f"], n["d"], n["l"], n["o"], b }' "$work/sorted") &&
  hash=$(sha256sum <"$work/sorted") &&
  printf 'counted %s %s' "$counts" "${hash%% *}" >"$result"
"""


def command(folder: str, work: str) -> list[str]:
    """Returns the command that counts what is in `folder`. `work` is an empty folder of its own."""
    return ["/bin/sh", "-c", SCRIPT, "verify", folder, work, ENDED]


def counted(message: str) -> Contents | None:
    """Returns what the program has counted, by its last words; None if it could not."""
    found = _COUNTED.fullmatch(message)
    if found is None:
        return None
    files, folders, links, others, size = (int(found[number]) for number in range(1, 6))
    return Contents(files=files, folders=folders, links=links, others=others, bytes=size, sha256=found[6])


def failure(message: str) -> str:
    """Returns why the program could not count, by its last words; empty if it does not say."""
    return message.removeprefix(_FAILED).strip() if message.startswith(_FAILED) else ""
