"""The slots of schedules."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_server.domain import errors, slots

MINUTES = st.integers(0, 59)
TIMES = st.builds("{:02}:{:02}".format, st.integers(0, 23), MINUTES)
TEXTS = st.one_of(
    st.builds("hourly :{:02}".format, MINUTES),
    st.builds("daily {}".format, TIMES),
    st.builds("weekly {} {}".format, st.sampled_from(slots.DAYS), TIMES),
)
MOMENTS = st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@given(TEXTS, MOMENTS)
def test_the_next_slot_is_after_now_and_the_latest_is_not(text: str, now: datetime) -> None:
    found = slots.parsed(text)
    latest, following = found.latest(now), found.following(now)
    assert latest <= now < following
    assert following - latest == found.every
    assert found.latest(following) == following
    assert found.following(latest) == following


@given(TEXTS, MOMENTS)
def test_a_slot_is_at_the_time_that_the_text_says(text: str, now: datetime) -> None:
    found = slots.parsed(text).following(now)
    kind, *rest = text.split()
    assert f"{found:%H:%M}".endswith(rest[-1])
    assert kind != "weekly" or found.weekday() == slots.DAYS.index(rest[0])


@given(TEXTS, MOMENTS, st.lists(st.timedeltas(timedelta(), timedelta(days=9)), max_size=20))
def test_no_slot_comes_twice_and_none_is_left_out_however_the_clock_goes_on(
    text: str, now: datetime, steps: list[timedelta]
) -> None:
    found = slots.parsed(text)
    worked, last = [found.latest(now)], found.latest(now)
    for step in steps:
        now += step
        latest = found.latest(now)
        if latest > last:
            skipped = found.between(last, latest)
            worked += [latest - found.every * (skipped - one) for one in range(skipped + 1)]
            last = latest
    assert worked == [worked[0] + found.every * number for number in range(len(worked))]


@pytest.mark.parametrize(
    ("text", "at", "following"),
    [
        ("daily 02:00", "2026-11-30T01:59:59", "2026-11-30T02:00"),
        ("daily 02:00", "2026-11-30T02:00", "2026-12-01T02:00"),
        ("hourly :15", "2026-11-30T23:15:00.000001", "2026-12-01T00:15"),
        ("weekly sun 02:00", "2026-11-30T00:00", "2026-12-06T02:00"),
        ("weekly mon 00:00", "2026-11-29T23:59", "2026-11-30T00:00"),
        # The clocks of Europe go forward in this night, from 01:00 UTC on.
        ("daily 01:30", "2026-03-29T00:59", "2026-03-29T01:30"),
    ],
)
def test_slots_are_in_utc(text: str, at: str, following: str) -> None:
    found = slots.parsed(text).following(datetime.fromisoformat(at).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(following).replace(tzinfo=UTC)


def test_text_is_stored_in_one_form() -> None:
    assert slots.written("  Weekly  SUN 02:00 ") == "weekly sun 02:00"


REFUSED = (
    *(
        "",
        "daily",
        "daily 2:00",
        "daily 24:00",
        "daily 02:60",
        "hourly 15",
        "hourly 02:15",
        "weekly 02:00",
        "daily sun 02:00",
    ),
    *(
        "weekly so 02:00",
        "daily 02:00 keep 7",
        "daily 02:00 UTC",
        "daily \u0660\u0662:\u0660\u0660",
        "daily 02:00\n",
        "monthly 02:00",
    ),
)


@pytest.mark.parametrize("text", REFUSED)
def test_other_texts_are_refused_with_examples(text: str) -> None:
    with pytest.raises(errors.Invalid) as refused:
        slots.parsed(text)
    (violation,) = refused.value.violations
    assert violation.field == "when"
    assert "daily 02:00" in violation.description
