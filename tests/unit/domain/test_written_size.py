"""A command is counted as the StatefulSet controller writes it, so that what is accepted can run."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_server.domain import check, errors

from tests.support import samples

pytestmark = [pytest.mark.find(26), pytest.mark.fault(70)]

MOST = 256 * 1024
SIZES = {
    "x": 1,
    "é": 2,
    "\u2028": 6,
    "\u2029": 6,
    "\U0001f600": 4,
    "<": 6,
    ">": 6,
    "&": 6,
    "\x01": 6,
    "\x0b": 6,
    "\x1b": 6,
    "\x1f": 6,
    "\x7f": 1,
    '"': 2,
    "\\": 2,
    "\n": 2,
    "\r": 2,
    "\t": 2,
    "$": 2,
}


def written(word: str) -> int:
    """Bytes of a word as Go's encoding/json (1.21) writes it for Kubernetes, after `$` was doubled."""
    text = json.dumps(word.replace("$", "$$"), ensure_ascii=False)[1:-1]
    for one, escaped in (("\\b", "\\u0008"), ("\\f", "\\u000c")):
        text = text.replace("\\\\", "\0\0").replace(one, escaped).replace("\0\0", "\\\\")
    for one in "<>&\u2028\u2029":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return len(text.encode())


def words(one: str, count: int, size: int) -> tuple[str, ...]:
    """`count` times a character, in words of at most `size` bytes."""
    each = size // len(one.encode())
    return tuple(one * min(each, count - begun) for begun in range(0, count, each))


@pytest.mark.parametrize("field", ["command", "args"])
@pytest.mark.parametrize("one", SIZES, ids=ascii)
def test_a_command_is_counted_as_it_is_written(field: str, one: str) -> None:
    count, size = MOST // SIZES[one], 4096 if field == "command" else 32768
    whole = words(one, count, size)
    if len(whole) > 64:
        pytest.skip("more words than a command has")
    samples.spec(**{field: whole})
    # Where each word is as long as it may be, another character in place of the last one makes it too much.
    above = (*whole, "x" * 7) if len(whole) < 64 else (*whole[:-1], whole[-1][:-1] + "<")
    with pytest.raises(errors.Invalid) as caught:
        samples.spec(**{field: above})
    (violation,) = caught.value.violations
    assert violation.field == f"spec.{field}"
    assert "262144 bytes in all" in violation.description


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200))
def test_each_word_has_the_size_that_it_is_written_with(word: str) -> None:
    assert check._json_size(word) == written(word)


def test_a_stored_spec_is_read_whatever_the_limits_are_now() -> None:
    from sandbox_server.store import documents

    made = samples.sandbox(spec=samples.spec(labels={"a": "b"}, args=("x",)))
    large = ["<" * 32768] * 8
    text = json.loads(documents.spec(made.spec)) | {"args": large}
    row = documents.Row(1, documents.document(samples.event(made)), 1, None, None, None, None, None, "[]")
    (event,) = documents.events([row], lambda _: [(1, json.dumps(text))])
    assert event.sandbox.spec.args == tuple(large)
    assert event.sandbox.spec.labels == {"a": "b"}
    first = json.loads(msgspec.json.encode(made))
    first["spec"] |= {"args": large}
    del first["spec"]["annotations"]
    row = documents.Row(1, json.dumps(first), None, None, None, None, None, None, None)
    (event,) = documents.events([row], lambda _: [])
    read = event.sandbox
    assert (read.spec.args, read.spec.annotations) == (tuple(large), {})
    assert read.spec == samples.sandbox(spec=read.spec).spec
