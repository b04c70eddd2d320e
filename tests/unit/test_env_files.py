"""Env files as `sandboxctl` reads them."""

import contextlib
import time

import pytest
from sandboxctl import envfile

from tests.support import samples

pytestmark = pytest.mark.find(43)
ENDS = ["\n", "\r\n", "\r"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_end_with_lf_crlf_or_cr(end: str, bom: str, last: bool) -> None:
    text = bom + end.join(["A=1", "", "# words", "B=2", "  C=3"]) + (end if last else "")
    assert envfile.parse(text.encode()) == {"A": "1", "B": "2", "C": "3"}


@pytest.mark.parametrize("end", ENDS)
def test_a_value_in_quotes_goes_on_over_lines(end: str) -> None:
    text = end.join(["KEY='-----BEGIN KEY-----", "# no comment", "-----END KEY-----'", 'OTHER="a', 'b"', "LAST=1"])
    assert envfile.parse(text.encode()) == {
        "KEY": "-----BEGIN KEY-----\n# no comment\n-----END KEY-----",
        "OTHER": "a\nb",
        "LAST": "1",
    }


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=", ""),
        ("A=b", "b"),
        ("A=b=c", "b=c"),
        ("A=b c", "b c"),
        ("A= b ", " b "),
        ("export A=b", "b"),
        ("\texport \t A=b", "b"),
        ("A=b # words", "b"),
        ("A=b\t# words", "b"),
        ("A= # words", ""),
        ("A=b#c", "b#c"),
        ("A=#b", "#b"),
        ('A=""', ""),
        ("A=''", ""),
        ('A="b c"', "b c"),
        ("A='b c'", "b c"),
        ('A= "b" ', "b"),
        ('A=" b "', " b "),
        ('A="b" # words', "b"),
        ("A='b # c'", "b # c"),
        ('A="b # c"', "b # c"),
        ('A="it\'s"', "it's"),
        ("A='say \"b\"'", 'say "b"'),
        (r'A="say \"b\""', 'say "b"'),
        (r'A="a\nb\tc\rd\\n"', "a\nb\tc\rd\\n"),
        (r"A='a\nb\'", r"a\nb" + "\\"),
        (r"A=a\nb", r"a\nb"),
        (r'A="C:\dir"', r"C:\dir"),
        (r'A="\$5 $HOME ${HOME}"', "$5 $HOME ${HOME}"),
        ("A=$HOME", "$HOME"),
        ('A={"b": "c"}', '{"b": "c"}'),
        ("A=b'c'", "b'c'"),
        ("A=\u00e9\u2028\x85\x0c", "\u00e9\u2028\x85\x0c"),
    ],
)
def test_a_value_is_what_the_line_says(line: str, value: str) -> None:
    assert envfile.parse(f"{line}\nLAST=1\n".encode()) == {"A": value, "LAST": "1"}
    assert envfile.parse(line.encode()) == {"A": value}


@pytest.mark.parametrize("line", ["A=b" + " " * 100_000, "A='b'" + " " * 100_000 + "c", "A='" + "\\'" * 100_000])
def test_no_line_takes_long(line: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ValueError):
        assert envfile.parse(f"{line}\nLAST=1".encode()) == {"A": line.removeprefix("A="), "LAST": "1"}
    assert time.process_time() - began < 1


def test_a_variable_can_be_called_export() -> None:
    assert envfile.parse(b"export=1\nexport export=2\n") == {"export": "2"}


def test_the_later_of_two_lines_with_one_name_counts() -> None:
    assert envfile.parse(b"A=1\nB=2\nA=3\n") == {"A": "3", "B": "2"}


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# words", b"  \t\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_variables(data: bytes) -> None:
    assert envfile.parse(data) == {}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{}", "must be NAME=value"),
        ("={}", "must be NAME=value"),
        ("A B={}", "must be NAME=value"),
        ("A ={}", "must be NAME=value"),
        ("1A={}", "must be NAME=value"),
        ("a-b={}", "must be NAME=value"),
        ("export {}", "must be NAME=value"),
        ("\u00e9={}", "must be NAME=value"),
        ("A='{}", "quote that is not closed"),
        ('A="{}', "quote that is not closed"),
        ('A="{}\\"', "quote that is not closed"),
        ('A="{}"b', "goes on after its closing quote, on line 3"),
        ("A='{}' b", "goes on after its closing quote, on line 3"),
        ("A='{}'#b", "goes on after its closing quote, on line 3"),
        ("A={}\0", "NUL"),
        ("A='{}\0'", "NUL"),
    ],
)
def test_an_error_names_the_line_and_shows_nothing_of_it(wrong: str, said: str, end: str) -> None:
    text = end.join(["# words", 'FINE="1"', wrong.format(samples.CANARY), "LAST=1"])
    with pytest.raises(ValueError, match=r"^line 3 ") as caught:
        envfile.parse(text.encode())
    assert said in str(caught.value)
    assert samples.CANARY not in str(caught.value)


def test_an_error_after_a_value_of_several_lines_names_its_own_line() -> None:
    with pytest.raises(ValueError, match=r"^line 4 "):
        envfile.parse(b"A='1\n2\n3'\nwrong\n")


@pytest.mark.parametrize(
    ("data", "line"), [(b"A=1\r\nB=\xff\r\n", 2), ("A=1\n".encode("utf-16"), 1), (b"A\rB\rC=\xe9", 3)]
)
def test_a_file_that_is_not_utf8_is_refused_with_its_line(data: bytes, line: int) -> None:
    with pytest.raises(ValueError, match=rf"^line {line} is not UTF-8"):
        envfile.parse(data)
