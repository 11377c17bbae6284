"""The recommender on the real year: trained, judged on a week that it has not seen, asked online, scored in batch,
tracked and followed back.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable

from contracts import catalog
from contracts.model import Severity
from contracts.report import PUBLISHED, UNCHANGED
from features import registry, training
from features.lake_reader import LakeReader, pinned
from grocery.recommender import evaluation, job, model, scoring, steps, tracking
from grocery.recommender.model import ModelError
from grocery.recommender.serving import recommend
from grocery.recommender.tracking import TrackingError
from lake import manifest, release, settings
from millrace import cli

pytestmark = pytest.mark.slow  # training takes a minute


@pytest.fixture(scope="module")
def trained(year_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[model.Model]:
    """A model of one week, in a home of its own with the year's files."""
    home = tmp_path_factory.mktemp("recommender") / "home"
    shutil.copytree(
        year_home, home, copy_function=os.link, ignore=shutil.ignore_patterns("lineage")
    )  # events are appended to a file
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield job.train(weeks=1, held_back=1)


def test_it_ranks_better_than_habit_and_far_better_than_what_most_buy(trained: model.Model) -> None:
    """From one week; of five, as by default, it beats the strongest baseline outside of its interval
    (docs/train-and-serve.md).
    """
    figures = trained.about["quality"]
    assert figures["model"]["ndcg"] > figures["frequency"]["ndcg"]
    for name in ("popular", "item_knn", "als"):
        assert figures["model"]["ndcg"] > 1.5 * figures[name]["ndcg"]
    assert figures["decayed_popular"]["ndcg"] == pytest.approx(0.271, abs=0.001), (
        "as it was measured apart from this code"
    )
    assert figures["decayed"]["recall"] == pytest.approx(0.141, abs=0.001)
    assert figures["frequency"]["recall"] == pytest.approx(0.132, abs=0.001)


def test_the_model_names_the_training_set_that_made_it(trained: model.Model) -> None:
    made = manifest.read(trained.about["training_set"])
    assert trained.about["training_set_digest"] == made.data.digest
    assert made.service == "recommendation_v1"


def test_no_label_that_was_learned_from_lies_in_the_week_held_back(trained: model.Model) -> None:
    learned, held = (training.read(trained.about[name]).to_pandas() for name in ("training_set", "held_back"))
    assert learned.event_timestamp.max() + pd.Timedelta(days=7) <= held.event_timestamp.min()


def test_chance_is_far_worse(trained: model.Model) -> None:
    data = training.read(trained.about["held_back"]).to_pandas()
    shuffled = data.assign(since=data["event_timestamp"], chance=trained.scores(data)[::-1])
    bought = job.bought_in(LakeReader(pinned(trained.about["release"])), [data.event_timestamp.min().date()])
    assert (
        evaluation.by_customer(shuffled, "chance", bought)["ndcg"].mean()
        < trained.about["quality"]["model"]["ndcg"] / 2
    )


def test_the_same_seed_is_the_same_model(trained: model.Model) -> None:
    weeks = sorted(training.read(trained.about["training_set"]).to_pandas()["event_timestamp"].dt.date.unique())
    assert model.fit(trained.about["training_set"], weeks).digest == trained.digest


def test_a_week_that_the_set_lacks_is_named(trained: model.Model) -> None:
    with pytest.raises(ModelError, match="has no row of the week from 2016-01-05 on"):
        model.fit(trained.about["training_set"], [pd.Timestamp("2016-01-05").date()])


def test_a_customer_is_answered_from_the_online_store(trained: model.Model) -> None:
    found = recommend(model.load(), 1)
    assert len({item.product_id for item in found}) == 10
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    store = registry.open_store()
    rows = [
        {"customer_id": 1, "product_id": item.product_id, "request_time": pd.Timestamp("2018-01-02", tz="UTC")}
        for item in found
    ]
    served = pd.DataFrame(store.get_online_features(store.get_feature_service("recommendation_v1"), rows).to_dict())
    assert trained.scores(served).tolist() == [item.score for item in found]
    assert recommend(model.load(), 999_999) == []


def test_scores_in_batch_are_those_online_and_a_rerun_adds_nothing(trained: model.Model) -> None:
    first, again = steps.score().report, steps.score().report
    assert (first.status, again.status) == (PUBLISHED, UNCHANGED)
    assert (again.version, again.account) == (first.version, first.account)
    assert all(check.success for check in first.checks if check.severity == Severity.CRITICAL)
    rows = DeltaTable(str(settings.table_path(scoring.TABLE))).to_pyarrow_table().to_pandas()
    assert len(rows) == first.account.published == 10 * rows["customer_id"].nunique()
    for customer in (1, 7):
        theirs = rows[rows["customer_id"] == customer].sort_values("rank")
        online = recommend(trained, customer)
        assert list(zip(theirs["product_id"], theirs["score"], strict=True)) == [
            (item.product_id, item.score) for item in online
        ]
    assert set(rows["model_digest"]) == {trained.digest}


def test_scores_name_the_tables_that_they_are_made_from(trained: model.Model) -> None:
    views = {
        f"gold.{view.name}"
        for view in registry.open_store().get_feature_service(trained.about["service"]).feature_view_projections
    }
    known = {table.qualified for table in catalog.tables()}
    assert {*catalog.table(scoring.TABLE).inputs} == {"silver.transactions"} | (views & known)


def test_a_model_is_tracked_once_and_followed_both_ways(trained: model.Model) -> None:
    import mlflow

    run = tracking.track(trained)
    assert tracking.track(trained) == run, "a repeat finds the run"
    kept = mlflow.MlflowClient(tracking.store()).get_run(run)
    made = manifest.read(trained.about["training_set"])
    assert kept.data.tags["millrace.training_set_digest"] == made.data.digest
    assert kept.data.tags["millrace.release"] == str(made.release)
    assert kept.data.metrics["model.ndcg_low"] < kept.data.metrics["model.ndcg"] < kept.data.metrics["model.ndcg_high"]
    inputs = {used.dataset.name: json.loads(used.dataset.source) for used in kept.inputs.dataset_inputs}
    assert {made.name, trained.about["held_back"]} <= set(inputs)
    assert {table: inputs[table]["delta_table_version"] for table, _, _ in made.versions} == {
        table: number for table, _, number in made.versions
    }
    data = training.read(trained.about["held_back"]).slice(0, 20).to_pandas()
    assert kept.info.artifact_uri.startswith((settings.home() / "mlflow" / "artifacts").as_uri()), (
        "nothing is written where the process runs"
    )
    assert "MLFLOW_TRACKING_URI" not in os.environ
    mlflow.set_tracking_uri(tracking.store())
    loaded = mlflow.pyfunc.load_model(f"runs:/{run}/model")
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it
    frame = model.inputs(data, trained.features, trained.categories)
    assert loaded.metadata.signature.inputs.input_names() == [*trained.features]
    assert loaded.predict(frame).tolist() == trained.scores(data).tolist()


def test_lineage_leads_from_a_model_to_its_tables_and_back(trained: model.Model) -> None:
    (link,) = tracking.links(model=trained.about["name"])
    pinned_tables = release.read(trained.about["release"]).tables
    for name in ("gold.customer_product", "silver.transactions"):
        assert link.tables[name] == pinned_tables[name]
    for found in (
        tracking.links(training_set=trained.about["held_back"]),
        tracking.links(release=trained.about["release"]),
        tracking.links(table="gold.customer_product"),
    ):
        assert trained.about["name"] in {link.model for link in found}
    assert tracking.links(release=99) == []


def test_a_server_that_is_away_loses_no_model(trained: model.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        TrackingError,
        match=r"the server that MLFLOW_TRACKING_URI names .* The model is kept at .*millrace recommender track",
    ) as error:
        tracking.track(trained)
    assert "secret" not in str(error.value)
    assert model.load(trained.about["name"]).digest == trained.digest


def test_commands(trained: model.Model, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["recommender", "show"]) == 0
    assert "decayed_popular" in capsys.readouterr().out
    assert cli.main(["recommender", "ask", "1", "--top", "3"]) == 0
    assert capsys.readouterr().out
    assert cli.main(["recommender", "ask", "999999"]) == 0
    assert "nothing to go by" in capsys.readouterr().out
    assert cli.main(["recommender", "lineage", "--table", "gold.customer_product", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["model"] == trained.about["name"]


def test_a_feature_that_is_gone_is_named(trained: model.Model) -> None:
    data = training.read(trained.about["held_back"]).slice(0, 5).to_pandas()
    with pytest.raises(
        ModelError, match=r"was trained on spend_30d, which recommendation_v1 does not give any more\. Train it again"
    ):
        trained.scores(data.rename(columns={"spend_30d": "spend_month"}))


def test_no_model(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["recommender", "show"]) == 1
    assert "ModelError: there is no model below" in capsys.readouterr().err
