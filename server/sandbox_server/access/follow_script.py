"""The program that follows an exec: it sends what is printed, and says when all was sent."""

from sandbox_server.access import scripts, talk_script

CHUNK = 64 * 1024
"""Bytes of output that are sent at once."""

# Everything that it waits for is a line of one FIFO: pokes, which are empty, and the lines of its input. So it needs no clock.
#
# It says what it has seen before it looks whether more was printed. Who prints does so in the reverse order, so that either
# notices the other.
_FOLLOW = (
    talk_script.OPEN
    + r"""
state
me=w/$$
for f in w/*; do
    n=${f#w/}; n=${n%%.*}
    [ "$n" = '*' ] || { [ "$n" != $$ ] && kill -0 "$n" 2>/dev/null; } || rm -f "$f"
done
mkfifo "$me" || exit
exec 4<&0 5<>"$me"
{ cat <&4; echo bye; } >&5 &
exec 4<&- </dev/null
# Sends what there is of channel $1, whose open segment is descriptor $2.
advance() {
    eval "pos=\$pos_$1 open=\$open_$1"
    while padded $pos; echo $p 1<>"$me.$1"; printed "$1"; to=$n; [ $pos -lt $to ]; do
        seg=
        for f in "$1".*; do
            number "$f"
            if [ $n -le $pos ]; then seg=$f first=$n; continue; fi
            [ -n "$seg" ] || pos=$n
            [ $n -ge $to ] || to=$n
            break
        done
        [ -n "$seg" ] || continue
        if [ "$seg" != "$open" ]; then
            [ ! -L "$seg" ] || exit
            [ -f "$seg" ] || { [ -e "$seg" ] && exit; continue; }
            eval "exec $2<\"\$seg\""
            open=$seg
            [ $pos -eq $first ] || dd bs=$((pos-first)) skip=1 count=0 <&$2 >/dev/null 2>&1
        fi
        n=$((to-pos)); [ $n -le $chunk ] || n=$chunk
        echo "$1 $pos $n"
        dd bs=$n count=1 <&$2 2>/dev/null
        pos=$((pos+n))
    done
    eval "pos_$1=\$pos open_$1=\$open"
}
open_o= open_e=
while :; do
    over=; [ ! -f exit ] || over=1
    [ -z "$pos_o" ] || advance o 6
    [ -z "$pos_e" ] || advance e 7
    [ -z "$over" ] || { state; echo over; rm -f "$me" "$me".*; exit; }
    read -r word <&5 || exit
    case $word in ping) state ;; bye) rm -f "$me" "$me".*; exit ;; esac
done
"""
)


def follow(exec_id: str, out: int | None, err: int | None) -> bytes:
    """Returns the script that sends stdout and stderr from offsets on, None for neither.

    It prints `here` or `unknown`, then its state. After that come, in any order, `o OFFSET SIZE` and `e OFFSET SIZE`, each
    with so many bytes behind it, and its state for each line `ping`. At last come the state and `over`.
    """
    pos_o, pos_e = ("" if one is None else str(one) for one in (out, err))
    return scripts.sent(scripts.assigned(id=exec_id, pos_o=pos_o, pos_e=pos_e, chunk=CHUNK) + _FOLLOW)
