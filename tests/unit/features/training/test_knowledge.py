"""What was known when: joins by knowledge time and the leak check, against a search in plain Python over what each
release holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from features import training
from features.training import joining
from features.training.joining import KnowledgeError
from lake import release
from tests.unit.features.conftest import Lake, activity, at, profile

SERVICE = "guest_value_v1"
START = at("2017-01-01")
Row = tuple[int, int, int]
"""Guest, day from START, dollars spent."""


def day(number: float) -> datetime:
    return START + timedelta(days=number)


@dataclass(frozen=True)
class Past:
    """A release: the day of its creation, the rows of guest_activity, and the ages that guest_profile gives from
    day 0 on; None where there was no such table yet.
    """

    created: int
    spent: tuple[Row, ...]
    ages: dict[int, str] | None


def publish(lake: Lake, pasts: list[Past]) -> None:
    """Make these releases, each created when it says."""
    for path in release.folder().glob("*.json"):
        path.unlink()
    for number, past in enumerate(pasts, 1):
        lake.write(
            "guest_activity",
            [activity(guest, str(day(when).date()), f"{dollars}.00") for guest, when, dollars in past.spent],
        )
        lake.write("guest_profile", [profile(guest, "2017-01-01", age) for guest, age in (past.ages or {}).items()])
        lake.release(
            "guest_activity",
            *(["guest_profile"] if past.ages is not None else []),
            horizon=f"2017-02-{number:02}",
        )
        created(number, day(past.created))


def created(number: int, instant: datetime) -> None:
    path = release.folder() / f"{number}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_at": instant.isoformat(timespec="seconds")}))


def labels(requested: list[tuple[int, datetime]]) -> pa.Table:
    guests, instants = zip(*requested, strict=True)
    return pa.table(
        {
            "guest_id": pa.array(guests, pa.int64()),
            "event_timestamp": pa.array(instants, pa.timestamp("us", tz="UTC")),
        }
    )


# --- the oracle


def spend(past: Past | None, guest: int, instant: datetime) -> float | None:
    """What the release says of the guest's spending at that instant: its newest row, not after it."""
    rows = (
        [(when, dollars) for who, when, dollars in past.spent if who == guest and day(when) <= instant] if past else []
    )
    return float(max(rows)[1]) if rows else None


def age(past: Past | None, guest: int, instant: datetime) -> str | None:
    return past.ages.get(guest) if past and past.ages is not None and instant >= START else None


def newest(pasts: list[Past], instant: datetime) -> Past | None:
    """The last release that was created by then."""
    made = [past for past in pasts if day(past.created) <= instant]
    return made[-1] if made else None


def expected(pasts: list[Past], requested: list[tuple[int, datetime]], say: Any) -> tuple[list[Any], dict[str, int]]:
    """Values by knowledge time, and how those of the newest release compare with them."""
    then = [say(newest(pasts, instant), guest, instant) for guest, instant in requested]
    now = [say(pasts[-1], guest, instant) for guest, instant in requested]
    pairs = list(zip(now, then, strict=True))
    unpublished = sum(kept is not None and known is None for kept, known in pairs)
    same = sum(kept == known for kept, known in pairs)
    return then, {"known": same, "unpublished": unpublished, "changed": len(pairs) - same - unpublished, "future": 0}


# --- one by one

CORRECTED = [
    Past(2, ((1, 0, 10),), {1: "19-24"}),
    Past(4, ((1, 0, 10), (1, 3, 5)), {1: "19-24"}),
    Past(6, ((1, 0, 12), (1, 3, 5)), {1: "19-24", 2: "65+"}),
]
ASKED = [(1, day(1)), (1, day(2)), (1, day(2) - timedelta(microseconds=1)), (1, day(3.5)), (1, day(7)), (2, day(5))]


def test_a_label_sees_what_had_been_published(lake: Lake) -> None:
    publish(lake, CORRECTED)
    made = training.create(labels(ASKED), SERVICE, "then", knowledge_time=True)
    data = training.read("then")
    assert data["paid_7d"].to_pylist() == [None, 10, None, 10, 5, None]
    assert data["age_band"].to_pylist() == [None, "19-24", None, "19-24", "19-24", None]
    assert [release.number for release in made.releases] == [1, 2, 3]
    training.create(labels(ASKED), SERVICE, "now")
    assert training.read("now")["paid_7d"].to_pylist() == [12, 12, 12, 5, 5, None]


def test_the_report_says_what_was_known_corrected_or_not_there(lake: Lake) -> None:
    publish(lake, CORRECTED)
    training.create(labels(ASKED), SERVICE, "now")
    result = training.check_leaks("now")
    figures = {
        feature.feature: (feature.rows, feature.known, feature.changed, feature.unpublished, feature.future)
        for feature in result.features
    }
    assert figures["paid_7d"] == (6, 2, 2, 2, 0)
    assert figures["age_band"] == (6, 3, 0, 3, 0)
    assert (result.unheard, result.first_release_at, result.found) == (2, "2017-01-03T00:00:00+00:00", True)
    backfilled, corrected = result.sentences
    assert backfilled.startswith(
        "2 of 6 labels lie before the first release (2017-01-03T00:00:00+00:00): their values were published after"
        " label time, because the lake was backfilled"
    )
    assert corrected.startswith("Values were corrected after label time")
    assert json.loads(json.dumps(result.to_dict()))["features"][0]["unpublished"] == 2


def test_without_leaks_the_report_says_so(lake: Lake) -> None:
    publish(lake, CORRECTED)
    result = training.check_labels(labels([(1, day(7)), (3, day(1))]), SERVICE)
    assert (result.found, result.unheard) == (False, 1)
    assert result.sentences == ("Every value was known at label time",)


def test_an_older_release_is_the_last_that_a_label_may_see(lake: Lake) -> None:
    publish(lake, CORRECTED)
    training.create(labels(ASKED), SERVICE, "then", knowledge_time=True, release=1)
    assert training.read("then")["paid_7d"].to_pylist() == [None, 10, None, 10, 10, None]
    assert not training.check_leaks("then").found


def test_what_an_older_release_said_was_known_after_it(lake: Lake) -> None:
    """What release 3 corrects later makes nothing of release 2 a leak; and the check needs the file of neither."""
    publish(lake, CORRECTED)
    training.create(labels([(1, day(7)), (1, day(3)), (1, day(4))]), SERVICE, "older", release=2)
    result = {feature.feature: feature for feature in training.check_leaks("older").features}["paid_7d"]
    assert (result.known, result.changed, result.unpublished) == (2, 1, 0)
    for number in (2, 3):
        (release.folder() / f"{number}.json").unlink()
    again = {feature.feature: feature for feature in training.check_leaks("older").features}["paid_7d"]
    assert again == result
    (release.folder() / "1.json").unlink()
    with pytest.raises(KnowledgeError, match=r"^1 labels lie before release 2"):
        training.check_leaks("older")


def test_a_set_by_knowledge_time_stays_when_releases_between_held_no_label(lake: Lake) -> None:
    """Releases 1 and 3 hold the same; were the later one taken for the earlier, label 7 would fall to release 2."""
    publish(lake, [CORRECTED[0], CORRECTED[1], Past(6, CORRECTED[0].spent, CORRECTED[0].ages)])
    training.create(labels([(1, day(3)), (1, day(5)), (1, day(7))]), SERVICE, "then", knowledge_time=True)
    assert training.read("then")["paid_7d"].to_pylist() == [10, 5, 10]
    lake.release("guest_activity", "guest_profile", horizon="2018-01-01")
    created(4, day(5))
    assert training.rebuild("then").same_file


def test_a_join_that_knows_the_future_is_found(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(lake, CORRECTED[-1:])
    honest = joining.join_at_release

    def leaking(inputs: pa.Table, *arguments: Any) -> pa.Table:
        later = pa.array(
            [instant.as_py() + timedelta(days=3) for instant in inputs["event_timestamp"]], pa.timestamp("us", tz="UTC")
        )
        return honest(inputs.set_column(1, "event_timestamp", later), *arguments)

    requested = [(1, day(0)), (1, day(-1)), (1, day(4)), (2, day(-2)), (3, day(1))]
    assert {feature.future for feature in training.check_labels(labels(requested), SERVICE).features} == {0}
    monkeypatch.setattr(joining, "join_at_release", leaking)
    result = training.check_labels(labels(requested), SERVICE)
    assert {
        feature.feature: feature.future for feature in result.features if feature.feature in ("paid_7d", "age_band")
    } == {
        "paid_7d": 2,
        "age_band": 2,
    }
    assert result.sentences[0].startswith("Some values are not those of the newest row at or before their label")


# --- releases that were removed


@pytest.mark.parametrize(("gone", "number", "hidden"), [([1], 2, 4), ([2], 3, 2), ([1, 2], 3, 5)])
def test_a_time_whose_releases_were_removed_cannot_be_known(
    lake: Lake, gone: list[int], number: int, hidden: int
) -> None:
    publish(lake, CORRECTED)
    requested = labels(
        [(1, day(at)) for at in (1, 2, 3, 3.5, 4, 7)][:6]
        if gone != [2]
        else [(1, day(1)), (1, day(3)), (1, day(4)), (1, day(7))]
    )
    for removed in gone:
        (release.folder() / f"{removed}.json").unlink()
    with pytest.raises(
        KnowledgeError,
        match=(
            rf"^{hidden} labels lie before release {number} \(2017-01-0\dT00:00:00\+00:00\), and releases before it"
            r" were removed"
        ),
    ):
        training.create(requested, SERVICE, "then", knowledge_time=True)
    assert training.create(labels([(1, day(7))]), SERVICE, "then", knowledge_time=True).rows == 1


def test_a_release_counts_from_the_second_after_it_was_written(lake: Lake) -> None:
    before = datetime.now(START.tzinfo)
    lake.write("guest_activity", [activity(1, "2017-01-02", "1.00")])
    made = lake.release("guest_activity")
    written = datetime.fromtimestamp((release.folder() / "1.json").stat().st_mtime, START.tzinfo)
    assert before <= datetime.fromisoformat(made.created_at)
    assert datetime.fromisoformat(made.created_at) - written > timedelta(seconds=-0.5)
