"""A home whose path has characters that SQL and shells quote is used; one whose path a URL would escape is refused
before anything is written, for Sail would not find its files again.
"""

from pathlib import Path

import pandas as pd
import pytest

from features import registry
from features.online import backends
from lake.delta import LakeError
from millrace import cli, pipeline
from tests.cinema import Cinema, ticket
from tests.conftest import command
from tests.landing import rows


@pytest.fixture
def odd(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "a'b+c=d,e:f&h"
    monkeypatch.setenv("MILLRACE_HOME", str(folder))
    return folder


def test_the_whole_way_from_landing_to_serving(odd: Path) -> None:
    cinema = Cinema.open(odd / "landing")
    pipeline.run_all("2017-03-01", "2017-03-02", "first")
    cinema.land(
        "tickets",
        [ticket(7, at="2017-03-02 10:00:00"), ticket(8, movie=404, at="2017-03-02 11:00:00")],
        day="2017-03-02",
    )
    pipeline.run_all("2017-03-02", "2017-03-03", "second")
    assert [row["booking_id"] for row in rows("silver.tickets", "booking_id")] == [1, 2, 7, 8]

    served = pipeline.serve()
    assert {view["status"] for view in served["views"]} == {"published"}
    store = registry.open_store()
    online = store.get_online_features(["guest_activity:bookings_7d"], [{"guest_id": 1}]).to_dict()
    labels = pd.DataFrame({"guest_id": [1], "event_timestamp": [pd.Timestamp("2017-03-03", tz="UTC")]})
    trained = store.get_historical_features(labels, ["guest_activity:bookings_7d"]).to_df()
    assert online["bookings_7d"] == trained["bookings_7d"].tolist() == [3]

    cinema.land("tickets", [ticket(9, at="2017-03-03 10:00:00")], day="2017-03-03")
    pipeline.run_all("2017-03-03", "2017-03-04", "third")
    loaded = {view["view"]: view["loaded"] for view in pipeline.serve()["views"]}
    assert loaded["guest_profile"] == 0, "what changed between two versions was told"
    assert backends.metadata().release == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a b", "é", "a%b", "a%20b", "a#b", "a?b", "a[b]", "a*b", 'a"b', "a~b", "a$b"])
def test_a_path_that_the_engines_would_not_find_again_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(home / name))
    Cinema.open(home / name / "landing")
    with pytest.raises(
        LakeError, match=r"has '.'.*, which the engines cannot find again\. Use a folder .* MILLRACE_LAKE"
    ):
        pipeline.run_all("2017-03-01", "2017-03-02", "first")
    assert not (home / name / "lake").exists()


def test_the_command_says_what_is_there(odd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The run in a process of its own, as a user starts it; what reads its lake in this process, whose imports are
    paid.
    """
    Cinema.open(odd / "landing")
    done = command("run", "--start", "2017-03-01", "--end", "2017-03-02", home=odd)
    assert done.returncode == 0, done.stdout + done.stderr
    for arguments in (["serve"], ["tables"], ["profile", "silver.tickets"], ["compare", "--all"]):
        assert cli.main(arguments) == 0, capfd.readouterr()
