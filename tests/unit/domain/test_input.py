"""Bad input: every field, one violation each, never a value. Property tests drive it."""

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_server.domain import check, errors, selector
from sandbox_server.domain.spec import Port, Readiness, Resources, Storage

from tests.support import samples

BAD_SPECS = {
    "spec.project": [{"project": one} for one in ("", "Demo", "1demo", "a" * 64, "a_b", "-a", "a-", "dé", "a\n")],
    "spec.image": [{"image": one} for one in ("", "a b", "x" * 513, "bad\nimage", "é", "-x")],
    "spec.command": [{"command": ("x",) * 65}],
    "spec.command[0]": [{"command": ("a\0b",)}, {"command": ("x" * 4097,)}],
    "spec.args": [{"args": ("x",) * 257}],
    "spec.args[1]": [{"args": ("ok", "x" * 32769)}],
    "spec.ports": [{"ports": ()}, {"ports": tuple(Port(f"p{n}", n + 1) for n in range(17))}],
    "spec.ports[0].number": [{"ports": (Port("a", one),)} for one in (0, -1, 65536, 7681)],
    "spec.ports[1].number": [{"ports": (Port("a", 80), Port("b", 80))}],
    "spec.ports[1].name": [{"ports": (Port("a", 80), Port("a", 81))}],
    "spec.ports[0].name": [
        {"ports": (Port(one, 80),)} for one in ("", "A", "1", "a" * 16, "a_b", "-a", "a-", "a--b", "ttyd")
    ],
    "spec.resources.cpu_limit": [
        {"resources": Resources("100m", one, "1Gi", "1Gi")} for one in ("", "1Gi", "-1", "0", "1.2345", "x", "1e4")
    ],
    "spec.resources.cpu_request": [{"resources": Resources("2", "1", "1Gi", "1Gi")}],
    "spec.resources.memory_limit": [
        {"resources": Resources("1", "1", "1Gi", one)} for one in ("", "500m", "-1Gi", "0", "1gi", "Gi", "1GiB")
    ],
    "spec.resources.memory_request": [{"resources": Resources("1", "1", "2Gi", "1Gi")}],
    "spec.storage.size": [
        {"storage": Storage(one, "", "ReadWriteOnce")} for one in ("", "0", "5m", "500m", "65Ti", "0.5", "5 Gi")
    ],
    "spec.storage.storage_class": [{"storage": Storage("5Gi", one, "ReadWriteOnce")} for one in ("A", "a_b", "-")],
    "spec.storage.access_mode": [{"storage": Storage("5Gi", "", one)} for one in ("", "RWO", "readwriteonce")],
    "spec.runtime_class": [{"runtime_class": one} for one in ("A", "a b", "x" * 254)],
    "spec.readiness.http_path": [{"readiness": Readiness(http_path=one)} for one in ("x", "/a b", "/\r\n", "/é")],
    "spec.readiness.tcp_port": [{"readiness": Readiness(tcp_port=one)} for one in (1, -1, 70000)],
    "spec.labels": [{"labels": {f"k{n}": "" for n in range(65)}}],
    "spec.labels[a]": [{"labels": {"a": one}} for one in ("x" * 64, "a b", "-a", "é", "a\n")],
    "spec.annotations": [{"annotations": {"a": "x" * 16 * 1024}}],
}


@pytest.mark.parametrize(
    ("field", "changes"), [(field, one) for field, several in BAD_SPECS.items() for one in several], ids=str
)
def test_each_bad_field_is_named(field: str, changes: dict[str, object]) -> None:
    with pytest.raises(errors.Invalid) as caught:
        samples.spec(**changes)
    assert [one.field for one in caught.value.violations] == [field]


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    "key",
    [
        "sandbox.fullstackagent.io/x",
        "project.fullstackagent.io/name",
        "cloud.sealos.io/app-deploy-manager",
        "deploy.cloud.sealos.io/resize",
        "app",
        "originImageName",
        "kubernetes.io/x",
        "node.kubernetes.io/x",
        "k8s.io/x",
        "",
        "/x",
        "a/",
        "A.com/x",
        "a/b/c",
        "x" * 64,
        "a b",
        "é",
    ],
)
@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_reserved_and_malformed_keys_are_refused(field: str, key: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        samples.spec(**{field: {key: ""}})
    assert caught.value.violations[0].field.startswith(f"spec.{field}[")


def test_all_bad_fields_are_reported_at_once() -> None:
    with pytest.raises(errors.Invalid) as caught:
        samples.spec(project="", image="", runtime_class="A")
    assert [one.field for one in caught.value.violations] == ["spec.project", "spec.image", "spec.runtime_class"]


@pytest.mark.fault(45)
@given(st.text(max_size=80))
@pytest.mark.slow
def test_an_id_is_a_dns_label_of_at_most_52_characters(text: str) -> None:
    label = text[:1].isalpha() and text.isascii() and text[-1:].isalnum() and len(text) <= 52
    good = label and all(one.isdigit() or one.islower() or one == "-" for one in text)
    assert (not list(check.sandbox_id("sandbox_id", text, True))) == good


@pytest.mark.fault(45)
@given(st.text(st.sampled_from("ab9-"), min_size=1, max_size=60))
def test_ids_of_the_right_letters_are_judged_by_shape(text: str) -> None:
    good = text[0] in "ab" and text[-1] != "-" and len(text) <= 52
    assert (not list(check.sandbox_id("sandbox_id", text, True))) == good


@pytest.mark.fault(44)
@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "É", "A=B", "A\n", "A\0", "x" * 254])
def test_a_bad_name_is_refused_and_named(name: str) -> None:
    (found,) = check.env("env", {name: "value"})
    assert found.field.startswith("env[")
    assert found.field.isprintable()
    assert found.field.isascii()


@pytest.mark.fault(34)
@pytest.mark.parametrize("value", ["x" * (32 * 1024 + 1), "a\0b", "é" * (16 * 1024 + 1)])
def test_a_bad_value_is_refused_and_not_shown(value: str) -> None:
    (found,) = check.env("env", {"GOOD": value})
    assert found.field == "env[GOOD]"
    assert value[:20] not in found.description


@pytest.mark.fault(34)
@pytest.mark.fault(44)
def test_too_many_and_too_much_are_refused() -> None:
    assert not list(check.env("env", {f"K{n}": "" for n in range(1000)}))
    assert [one.field for one in check.env("env", {f"K{n}": "" for n in range(1001)})] == ["env"]
    assert [one.field for one in check.env("env", {f"K{n}": "x" * 30_000 for n in range(18)})] == ["env"]


@pytest.mark.fault(52)
@given(st.dictionaries(st.text(max_size=5), st.text(min_size=6, max_size=40), max_size=4))
def test_no_violation_ever_shows_a_value(values: dict[str, str]) -> None:
    marked = {name: f"{samples.CANARY}{value}" for name, value in values.items()}
    for found in (*check.env("env", marked), *check.env_change(marked, tuple(marked), True)):
        assert samples.CANARY not in found.description
        assert samples.CANARY not in found.field
        assert "\n" not in found.field


def test_a_change_of_the_environment_is_judged_as_a_whole() -> None:
    assert [one.field for one in check.env_change({"A": "1"}, ["A"], False)] == ["unset[0]"]
    assert [one.field for one in check.env_change({}, ["A"], True)] == ["unset"]
    assert [one.field for one in check.env_change({}, ["1"], False)] == ["unset[0]"]
    assert [one.field for one in check.env_change({}, ["A"] * 1001, False)] == ["unset"]
    assert not list(check.env_change({"A": "1"}, ["B"], False))


@pytest.mark.parametrize("text", ["a", "not-a-uuid", "123e4567e89b12d3a456426614174000", "é"])
def test_a_request_id_is_a_uuid(text: str) -> None:
    assert [one.field for one in check.request_id("request_id", text)] == ["request_id"]
    assert not list(check.request_id("request_id", "123E4567-e89b-12d3-a456-426614174000"))


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y", ""]), max_size=3)


@given(LABELS, st.sampled_from("abc"), st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2))
def test_selectors_choose_as_kubernetes_does(labels: dict[str, str], key: str, values: list[str]) -> None:
    def chooses(text: str) -> bool:
        return selector.parse("label_selector", text).matches(labels)

    listed, one = ", ".join(values), values[0]
    assert chooses(f"{key}={one}") == chooses(f"{key} == {one}") == (labels.get(key) == one)
    assert chooses(f"{key}!={one}") == (labels.get(key) != one)
    assert chooses(f"{key} in ({listed})") == (labels.get(key) in values)
    assert chooses(f"{key} notin ({listed})") == (labels.get(key) not in values)
    assert chooses(key) == (key in labels)
    assert chooses(f"!{key}") == (key not in labels)
    assert chooses(f"{key},{key}={one}, !zz") == (labels.get(key) == one)
    assert chooses("")


@given(st.text(max_size=30))
def test_any_selector_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(errors.Invalid):
        selector.parse("label_selector", text)


@pytest.mark.parametrize(
    "text", ["a=b=c", "a..b/c", "a in b", "a in (", ",", "a,,b", "=b", "a=!", "a in (é)", "x" * 5000]
)
def test_bad_selectors_are_refused(text: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        selector.parse("label_selector", text)
    assert caught.value.violations[0].field == "label_selector"


@pytest.mark.find(31)
def test_selector_has_at_most_32_requirements() -> None:
    most = [f"a{number} in (x,y)" for number in range(32)]
    assert len(selector.parse("label_selector", ",".join(most)).requirements) == 32
    for text in (",".join([*most, "b"]), ",".join(["a"] * 690), "," * 4096):
        with pytest.raises(errors.Invalid) as caught:
            selector.parse("label_selector", text)
        assert caught.value.violations == (errors.Violation("label_selector", "must have at most 32 requirements"),)


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    "text",
    [
        "a=" + " " * 4000 + "(",
        "a" + " " * 4000 + "in(",
        pytest.param("," * 4096, marks=pytest.mark.find(31)),
        pytest.param("(" * 2048 + "," * 2048, marks=pytest.mark.find(31)),
        pytest.param("a in (" + "b," * 2040 + "b)", marks=pytest.mark.find(31)),
    ],
    ids=["spaces before (", "spaces before in", "commas", "parentheses", "values"],
)
def test_no_selector_holds_the_service_up(text: str) -> None:
    begun = time.process_time()
    with contextlib.suppress(errors.Invalid):
        selector.parse("label_selector", text)
    assert time.process_time() - begun < 0.03


ANYTHING = st.text(st.characters(categories=["Cs", "Cc", "Cf", "Lu", "Ll", "Nd", "Po", "Zs"]), min_size=1, max_size=20)


@pytest.mark.fault(52)
@given(ANYTHING.map(samples.CANARY.__add__))
def test_no_text_breaks_the_judge_or_is_shown(text: str) -> None:
    fields = ("project", "image", "runtime_class")
    found: list[errors.Violation] = [
        *check.env("env", {"A": text, "B": f"{text}\0"}),
        *check.env_change({}, [text], False),
    ]
    changes: list[dict[str, object]] = [
        *({field: text} for field in fields),
        {"command": (text,), "args": (f"{text}\0",)},
        {"ports": (Port(text, 80),)},
        {"resources": Resources(text, text, text, text), "storage": Storage(text, text, text)},
        {"labels": {"a": text}, "annotations": {"a": f"{text}\0"}},
        {"readiness": Readiness(http_path=text)},
    ]
    for change in changes:
        try:
            samples.spec(**change)
        except errors.Invalid as invalid:
            found += invalid.violations
    assert not any(samples.CANARY in f"{one.field}{one.description}" for one in found)


@given(st.text(st.characters(categories=["Cs"]), min_size=1))
def test_half_a_character_is_refused_wherever_bytes_are_taken(text: str) -> None:
    assert [one.field for one in check.env("env", {"A": text})] == ["env[A]"]
    for change in ({"command": (text,)}, {"args": (text,)}, {"annotations": {"a": text}}, {"labels": {"a": text}}):
        with pytest.raises(errors.Invalid):
            samples.spec(**change)
    (found,) = check.env("env", {text: ""})
    assert found.field.isascii()


SUFFIXES = {suffix: Fraction(1000) ** power for power, suffix in enumerate(("n", "u", "m", "", *"kMGTPE"), -3)}
SUFFIXES |= {f"{letter}i": Fraction(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", 1)}
SUFFIXES |= {
    f"{e}{power}": Fraction(10) ** int(power) for e in "eE" for power in ("3", "+2", "-3", "09", "400", "-400")
}
NUMBERS = st.from_regex(r"\+?([0-9]{1,5}\.?|[0-9]{0,5}\.[0-9]{1,10})", fullmatch=True)


@pytest.mark.find(38)
@given(NUMBERS, st.sampled_from([*SUFFIXES]) | st.sampled_from(["Kb", "ki", "K", "e", "e1.5", "i", "GB", "1Gi2"]))
def test_a_quantity_is_a_number_and_a_suffix_within_its_bounds(number: str, suffix: str) -> None:
    for kind, least, most, step in (
        (check.memory, 1, 16 * 2**40, 0),
        (check.disk, 1, 64 * 2**40, 0),
        (check.cpu, Fraction(1, 1000), 1024, Fraction(1, 1000)),
    ):
        amount = Fraction(number) * SUFFIXES.get(suffix, 0)
        good = least <= amount <= most and not (step and amount % step)
        assert kind.fits(number + suffix) == (amount if good else None)
    for bad in (f"-{number.removeprefix('+')}", f"++{number}", f" {number}", f"{number}\n", "", ".", "+"):
        assert check.memory.fits(bad) is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("2.3333333333333335Gi", "2505397589334m"),
        ("1n", "1m"),
        ("1.0001", "1001m"),
        ("0.5Gi", "512Mi"),
        ("1001m", "1.001"),
        ("x", "0"),
    ],
)
def test_an_amount_is_what_the_api_server_keeps_of_a_quantity(value: str, kept: str) -> None:
    assert check.amount(value) == check.amount(kept)
    assert (check.amount(value) * 1000).denominator == 1


@pytest.mark.find(38)
@pytest.mark.parametrize(
    ("kind", "value", "amount"),
    [
        (check.memory, "1e9", 10**9),
        (check.memory, "1E3", 1000),
        (check.memory, "1000E-3", 1),
        (check.memory, "1.5", Fraction(3, 2)),
        (check.memory, "0.0625Gi", 2**26),
        (check.memory, "128974848000m", 128974848),
        (check.cpu, ".5", Fraction(1, 2)),
        (check.cpu, "5.", 5),
        (check.cpu, "+1", 1),
        (check.cpu, "1000000n", Fraction(1, 1000)),
        (check.cpu, "500000u", Fraction(1, 2)),
        (check.cpu, "1k", 1000),
        (check.disk, "5000m", 5),
        (check.disk, "5.E9", 5 * 10**9),
        (check.disk, "1.1Gi", Fraction(11 * 2**30, 10)),
    ],
)
def test_a_quantity_is_taken_in_every_form_of_kubernetes(kind: check.Kind, value: str, amount: Fraction) -> None:
    assert kind.fits(value) == amount


@pytest.mark.find(38)
@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (check.memory, "512MB", "suffix must be one of n, u, m, k, M, G, T, P, E, Ki"),
        (check.memory, "64K", "suffix must be one of"),
        (check.memory, "1e1.5", "exponent must be a whole number"),
        (check.memory, "1.2.3", "at most one point"),
        (check.memory, "1,5Gi", "at most one point"),
        (check.memory, "5 Gi", "white space"),
        (check.memory, "Gi", "begin with a decimal number"),
        (check.memory, "٣Gi", "begin with a decimal number"),
        (check.memory, "0" * 64 + "1", "more than 64 characters"),
        (check.memory, "-1Gi", "not more than 0"),
        (check.memory, "0", "not more than 0"),
        (check.memory, "1e99999999999", "above the maximum"),
        (check.memory, "1E", "above the maximum"),
        (check.memory, "512m", "less than 1 (the suffix m is a thousandth)"),
        (check.cpu, "500u", "less than 0.001"),
        (check.cpu, "1500u", "no multiple of 0.001"),
        (check.disk, "0.5", "less than 1"),
    ],
)
def test_a_refused_quantity_is_answered_with_what_is_wrong_with_its_form(
    kind: check.Kind, value: str, words: str
) -> None:
    (single,) = kind("size", value)
    paired, _ = check.pair("size", value, value, kind)
    assert words in single.description
    assert paired.description == single.description
    assert value not in single.description or len(value) < 3
