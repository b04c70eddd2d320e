"""What is stored of the output of a process that failed."""

import pytest
from sandbox_server.domain import words

SECRET = "s3cr3t-Value"


@pytest.mark.find(45)
@pytest.mark.parametrize(
    ("output", "values", "kept"),
    [
        (f"token={SECRET} refused\n", [SECRET], "token=[redacted] refused"),
        # The beginning of a value, or its end, was cut off with the output.
        ("t-Value refused", [SECRET], "[redacted] refused"),
        ("\ufffdt-Value refused", [SECRET], "[redacted] refused"),
        ("refused s3cr3t", [SECRET], "refused [redacted]"),
        ("3cr3t-Val", [SECRET], "[redacted]"),
        # Values that overlap, and one that is in the mark.
        ("abcdefghi", ["abcdef", "defghi"], "[redacted]"),
        (SECRET, [SECRET, "redacted"], "[redacted]"),
        # Line by line.
        ("key: BEGIN\r\nmiddle\r\nEND.", ["BEGIN\nmiddle\nEND.\n"], "key: [redacted]\\r\\n[redacted]\\r\\n[redacted]"),
        # Short values go as words, and leave the others whole.
        (
            "a pin of 12 and a map of 3120",
            ["a", "12", "", " "],
            "[redacted] pin of [redacted] and [redacted] map of 3120",
        ),
        ("bell \x07 and \x1b[31mred\x00\u202e", [], "bell \\x07 and \\x1b[31mred\\x00\\u202e"),
    ],
)
def test_last_words_have_no_value_and_no_control_character(output: str, values: list[str], kept: str) -> None:
    assert words.last(output, values) == kept


@pytest.mark.find(45)
def test_last_words_are_the_end_and_bounded_after_they_are_redacted() -> None:
    kept = words.last("x" * 5000 + SECRET + "y" * (words.MOST - 3), [SECRET])
    assert len(kept) == words.MOST
    assert kept.startswith("ed]y")
