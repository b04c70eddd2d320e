"""The values of an environment are found in an output however a program prints them."""

import base64
import html
import json
import random
import shlex
import string
import time
import urllib.parse
from collections.abc import Callable

import pytest
from sandbox_server.domain import redaction, words

from tests.support import variants

pytestmark = pytest.mark.find(45)
ENCODINGS: dict[str, Callable[[str], str]] = {
    "json": json.dumps,
    "json in UTF-8": lambda value: json.dumps(value, ensure_ascii=False),
    "json of PHP": lambda value: json.dumps(value).replace("/", "\\/"),
    "json of Go": lambda value: json.dumps(value).replace("<", "\\u003c").replace("&", "\\u0026"),
    "python": repr,
    "python in ASCII": ascii,
    "python bytes": lambda value: repr(value.encode()),
    "shell": shlex.quote,
    "shell by backslash": lambda value: "'" + value.replace("'", "'\\''") + "'",
    "shell in double quotes": lambda value: "".join(f"\\{one}" if one in '"\\$`' else one for one in value),
    "octal": lambda value: "".join(f"\\{one:03o}" if one > 126 or one < 32 else chr(one) for one in value.encode()),
    "url": lambda value: urllib.parse.quote(value, safe=""),
    "url path": urllib.parse.quote,
    "url query": urllib.parse.quote_plus,
    "url in small letters": lambda value: urllib.parse.quote(value, safe="").replace("%2F", "%2f"),
    "html": html.escape,
    "html by number": lambda value: "".join(f"&#{ord(one)};" if one in "<>&\"'" else one for one in value),
    "hex": lambda value: value.encode().hex(),
    "hex in capitals": lambda value: value.encode().hex().upper(),
    "hex dump": lambda value: value.encode().hex(" "),
    "hex dump in lines": lambda value: value.encode().hex("\n", 2),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 after one byte": lambda value: base64.b64encode(b":" + value.encode() + b":").decode(),
    "base64 after two bytes": lambda value: base64.b64encode(b"u:" + value.encode()).decode(),
    "base64 of URLs": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "base64 in lines": lambda value: base64.encodebytes(value.encode() * 3).decode(),
}
SECRETS = [
    "s3cr3tValue",
    "pa$$ \"w'ord<&>/\\?+%",
    "p\u00e4ssw\u00f6rt\U0001f600~~~",
    "-----BEGIN-----\nbase/+==\n-----END-----\n",
]


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("secret", SECRETS)
def test_an_encoded_value_is_redacted(encode: Callable[[str], str], secret: str) -> None:
    encoded = encode(secret)
    said = words.last(f"it failed: TOKEN={encoded} was refused", [secret, "unrelated"])
    assert said.startswith("it failed: TOKEN=")
    assert said.endswith("was refused")
    kept = said.removeprefix("it failed: TOKEN=").removesuffix("was refused").replace(words.REDACTED, "")
    # Quotes, and characters of base64 that also have bits of the neighbours.
    assert len(kept) <= 12, said


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("secret", variants.some(SECRETS))
def test_what_is_left_of_an_encoded_value_at_an_edge_is_redacted(encode: Callable[[str], str], secret: str) -> None:
    encoded = encode(secret)
    for cut in range(len(encoded)):
        for text in (f"{encoded[cut:]} was refused", f"it failed: {encoded[:cut]}"):
            said = words.last(text, [secret])
            kept = said.replace(words.REDACTED, "").removeprefix("it failed: ").removesuffix(" was refused")
            assert len(kept) <= 12, (text, said)


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("pass\\and\\nword", "pass\x07nd\nword"),
        ("https://u:p%40ss@h/", "https://u:p@ss@h/"),
        ("a+secret+word", "a secret word"),
        ("it&#39;s &lt;secret&gt;", "it's <secret>"),
    ],
)
def test_a_value_that_was_decoded_is_redacted(value: str, printed: str) -> None:
    assert words.last(f"it failed: {printed}", [value]) == f"it failed: {words.REDACTED}"


@pytest.mark.parametrize(("cut", "shown"), [("t3V", words.REDACTED), ("t3", "t3")])
def test_output_that_is_the_middle_of_a_value_is_redacted_from_three_characters_on(cut: str, shown: str) -> None:
    assert words.last(cut, ["s3cret3Value"]) == shown


def test_an_output_without_values_is_kept_as_it_is() -> None:
    output = 'GET /a%20b?c=d+e "C:\\new" &amp; {"a": "\\u00e9"} dGVzdA== 0xDEADBEEF'
    assert words.last(output, ["s3cr3tValue", "1", "true", "production"]) == output


@pytest.mark.find(31)
@pytest.mark.parametrize(
    ("output", "values"),
    [
        ("a" * 4096, ["a" * (32768 - one) for one in range(16)]),
        ("a" * 4096, ["a" * one for one in range(4, 1004)]),
        ("aaa", ["a" * (32768 - one) for one in range(16)]),
        ("a" * 2000 + "b" * 2096, ["a" * (16000 + one) + "b" * 16000 for one in range(16)]),
        ("aac\\n" * 819, ["aac" * 170 + str(one) for one in range(1000)]),
    ],
)
@pytest.mark.slow
def test_no_environment_makes_the_search_slow(output: str, values: list[str]) -> None:
    # It took ten times as long, two seconds of the event loop.
    assert searching(output, values) < 5 * searching(shuffled(output), [shuffled(one) for one in values])


def searching(output: str, values: list[str]) -> float:
    """Seconds of CPU that a search takes."""
    began = time.process_time()
    redaction.found(output, values)
    return time.process_time() - began


def shuffled(text: str) -> str:
    """A text of the same length in which nothing is repeated."""
    return "".join(random.Random(text).choices(string.ascii_lowercase, k=len(text)))
