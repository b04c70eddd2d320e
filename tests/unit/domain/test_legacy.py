"""What is kept of a row of the former system's database, and what is not."""

import pytest
from sandbox_server.domain import errors, legacy
from sandbox_server.domain.phase import DesiredState

from tests.support import samples


def row(row_id: str | None = "a", **changes: str | None) -> legacy.Row:
    return {"legacy_id": row_id, "name": "one-x1", "namespace": "default", "project": "p", "owner": "o", **changes}


def faults(*rows: legacy.Row) -> list[str]:
    return [one.fault for one in legacy.judge(rows)]


def test_rows_are_judged_in_the_order_of_their_ids() -> None:
    found = legacy.judge([row("b"), row(None), row("a", name="two-x2")])
    assert [one.row["legacy_id"] for one in found] == [None, "a", "b"]


def test_columns_that_are_not_there_leave_empty_texts() -> None:
    (only,) = legacy.judge([{"legacy_id": "a", "name": "n", "namespace": "default", "project": "p"}])
    assert only.fact == legacy.Fact(namespace="default", name="n", legacy_id="a", project="p")


@pytest.mark.parametrize("name", ["legacy_id", "name", "namespace"])
@pytest.mark.parametrize("value", [None, ""])
def test_row_that_does_not_name_an_object_is_no_fact(name: str, value: str | None) -> None:
    (only,) = legacy.judge([row(**{name: value}) if name != "legacy_id" else row(value)])
    assert only.fact is None
    assert only.fault.startswith("it has no ")


@pytest.mark.parametrize("name", ["../secrets/a", "A", "a/b", "a" * 254, "a\n"])
def test_name_that_no_object_can_have_is_no_fact(name: str) -> None:
    assert faults(row(name=name))[0].startswith("its name of a StatefulSet is not a DNS name")
    assert faults(row(namespace=name))[0].startswith("its namespace is not a DNS label")


def test_of_rows_with_one_object_or_one_id_none_is_a_fact() -> None:
    assert faults(row("a"), row("b"), row("c", namespace="other")) == ["several rows name this object: a, b"] * 2 + [""]
    assert faults(row("a"), row("a", name="two-x2")) == ["several rows have this id"] * 2


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://a.example.com/", "https://a.example.com/"),
        ("https://u:secret@a.example.com:8443/x?token=secret#secret", "https://a.example.com:8443/x"),
        ("a.example.com", ""),
        ("https://a.example.com:secret/", ""),
        ("https://[secret/", ""),
        (None, ""),
    ],
)
def test_urls_are_kept_without_what_may_be_a_credential(url: str | None, kept: str) -> None:
    (only,) = legacy.judge([row(ttyd_url=url, public_url=url)])
    assert only.fact is not None
    assert (only.fact.ttyd_url, only.fact.public_url) == (kept, kept)


def test_labels_are_added_to_those_that_there_are_and_need_no_restart() -> None:
    (only,) = legacy.judge([row(owner="someone@example.com")])
    assert only.fact is not None
    assert only.fact.unlabelled == (legacy.OWNER,)
    before = samples.sandbox(spec=samples.spec(labels={"own": "kept", legacy.PROJECT: "before"}))
    after = legacy.labelled(before, only.fact)
    assert after.spec.labels == {"own": "kept", legacy.ID: "a", legacy.PROJECT: "p"}
    assert samples.next_generation(after).pod_generation == before.generation
    assert legacy.labelled(after, only.fact) is after


def test_sandbox_that_was_deleted_keeps_its_labels_and_a_full_one_is_refused() -> None:
    (only,) = legacy.judge([row()])
    assert only.fact is not None
    deleted = samples.sandbox(desired=DesiredState.DELETED)
    assert legacy.labelled(deleted, only.fact) is deleted
    full = samples.sandbox(spec=samples.spec(labels={f"l{number}": "" for number in range(62)}))
    with pytest.raises(errors.Invalid, match=r"spec\.labels"):
        legacy.labelled(full, only.fact)
