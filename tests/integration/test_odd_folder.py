"""A home whose path has characters that SQL and shells quote is used; one whose path a URL would escape is refused
before anything is written, for Sail would not find its files again.
"""

from pathlib import Path

import pandas as pd
import pytest

from features import registry
from features.online import materialize
from lake.delta import LakeError
from millrace import cli, pipeline
from tests.conftest import command
from tests.landing import Shop, purchase, rows


@pytest.fixture
def odd(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "a'b+c=d,e:f&h"
    monkeypatch.setenv("MILLRACE_HOME", str(folder))
    return folder


def test_the_whole_way_from_landing_to_serving(odd: Path) -> None:
    shop = Shop.open(odd / "landing")
    pipeline.run_all("2017-03-01", "2017-03-02", "first")
    shop.land(
        "transactions",
        [purchase(7, at="2017-03-02 10:00:00"), purchase(8, product=404, at="2017-03-02 11:00:00")],
        day="2017-03-02",
    )
    pipeline.run_all("2017-03-02", "2017-03-03", "second")
    assert [row["basket_id"] for row in rows("silver.transactions", "basket_id")] == [1, 2, 7, 8]

    served = pipeline.serve()
    assert {view["status"] for view in served["views"]} == {"published"}
    store = registry.open_store()
    online = store.get_online_features(["customer_activity:baskets_7d"], [{"customer_id": 1}]).to_dict()
    labels = pd.DataFrame({"customer_id": [1], "event_timestamp": [pd.Timestamp("2017-03-03", tz="UTC")]})
    trained = store.get_historical_features(labels, ["customer_activity:baskets_7d"]).to_df()
    assert online["baskets_7d"] == trained["baskets_7d"].tolist() == [3]

    shop.land("transactions", [purchase(9, at="2017-03-03 10:00:00")], day="2017-03-03")
    pipeline.run_all("2017-03-03", "2017-03-04", "third")
    loaded = {view["view"]: view["loaded"] for view in pipeline.serve()["views"]}
    assert loaded["customer_profile"] == 0, "what changed between two versions was told"
    assert materialize.online_release().release == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a b", "é", "a%b", "a%20b", "a#b", "a?b", "a[b]", "a*b", 'a"b', "a~b", "a$b"])
def test_a_path_that_the_engines_would_not_find_again_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(home / name))
    Shop.open(home / name / "landing")
    with pytest.raises(
        LakeError, match=r"has '.'.*, which the engines cannot find again\. Use a folder .* MILLRACE_LAKE"
    ):
        pipeline.run_all("2017-03-01", "2017-03-02", "first")
    assert not (home / name / "lake").exists()


def test_the_command_says_what_is_there(odd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The run in a process of its own, as a user starts it; what reads its lake in this process, whose imports are
    paid.
    """
    Shop.open(odd / "landing")
    done = command("run", "--start", "2017-03-01", "--end", "2017-03-02", home=odd)
    assert done.returncode == 0, done.stdout + done.stderr
    for arguments in (["serve"], ["tables"], ["profile", "silver.transactions"], ["compare", "--all"]):
        assert cli.main(arguments) == 0, capfd.readouterr()
