"""The recommender on the real year: trained, judged on a week that it has not seen, asked over the online store."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from contracts import manifest
from dags import cli
from features import registry, training
from models.recommender import job, model
from models.recommender.evaluation import quality
from models.recommender.model import ModelError
from models.recommender.serving import recommend


@pytest.fixture(scope="module")
def trained(year_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[model.Model]:
    """A model of one week, in a home of its own with the year's files."""
    home = tmp_path_factory.mktemp("recommender") / "home"
    shutil.copytree(year_home, home, copy_function=os.link)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(home))
        yield job.train(weeks=1)


def test_it_finds_more_than_habit_alone_and_far_more_than_what_most_buy(trained: model.Model) -> None:
    """From one week; of four, as by default, it also ranks better than habit (docs/train-and-serve.md)."""
    figures = trained.about["quality"]
    assert figures["model"]["recall"] > figures["bought_before"]["recall"] > 2 * figures["popularity"]["recall"]
    assert figures["model"]["ndcg"] > 2 * figures["popularity"]["ndcg"]


def test_the_model_names_the_training_set_that_made_it(trained: model.Model) -> None:
    made = manifest.read(trained.about["training_set"])
    assert trained.about["training_set_digest"] == made.data.digest
    assert made.service == "recommendation_v1"
    assert training.rebuild(made.name, write=False).intact


def test_no_label_that_was_learned_from_lies_in_the_week_held_back(trained: model.Model) -> None:
    learned, held = (training.read(trained.about[name]).to_pandas() for name in ("training_set", "held_back"))
    assert learned.event_timestamp.max() + pd.Timedelta(days=7) <= held.event_timestamp.min()


def test_chance_is_far_worse(trained: model.Model) -> None:
    data = training.read(trained.about["held_back"]).to_pandas()
    shuffled = data.assign(chance=trained.scores(data)[::-1])
    bought = job._bought(trained.about["release"], data.event_timestamp.min().date())
    assert quality(shuffled, "chance", bought).recall < trained.about["quality"]["model"]["recall"] / 2


def test_the_same_seed_is_the_same_model(trained: model.Model) -> None:
    data = training.read(trained.about["held_back"]).slice(0, 500).to_pandas()
    assert (model.fit(trained.about["training_set"]).scores(data) == trained.scores(data)).all()


def test_a_customer_is_answered_from_the_online_store(trained: model.Model) -> None:
    found = recommend(model.load(), 1)
    assert len({one.product_id for one in found}) == 10
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)
    store = registry.open_store()
    rows = [{"customer_id": 1, "product_id": one.product_id, "request_time": pd.Timestamp("2018-01-02", tz="UTC")} for one in found]
    served = pd.DataFrame(store.get_online_features(store.get_feature_service("recommendation_v1"), rows).to_dict())
    assert trained.scores(served).tolist() == [one.probability for one in found]
    assert recommend(model.load(), 999_999) == []


def test_commands(trained: model.Model, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["recommender", "show"]) == 0
    assert "bought_before" in capsys.readouterr().out
    assert cli.main(["recommender", "ask", "1", "--top", "3"]) == 0
    assert capsys.readouterr().out.count("%") == 3
    assert cli.main(["recommender", "ask", "999999"]) == 0
    assert "nothing to go by" in capsys.readouterr().out


def test_a_feature_that_is_gone_is_named(trained: model.Model) -> None:
    data = training.read(trained.about["held_back"]).slice(0, 5).to_pandas()
    with pytest.raises(ModelError, match=r"was trained on spend_30d, which recommendation_v1 does not give any more\. Train it again"):
        trained.scores(data.rename(columns={"spend_30d": "spend_month"}))


def test_no_model(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["recommender", "show"]) == 1
    assert "ModelError: there is no model below" in capsys.readouterr().err
