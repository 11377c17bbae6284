"""Fraud: `fraud_v1` at the instants around a few baskets, what is invented, how it is measured, and the scoring service
on a real Kafka.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, IsolationLevel, TopicPartition
from starlette.testclient import TestClient

from contracts.model import Topic
from features import registry, training
from features.offline.labels import LabelError
from features.online import consistency
from features.serving.app import app
from grocery.fraud import evaluation, injection, model, scoring
from grocery.fraud.evaluation import Periods
from grocery.fraud.injection import FraudError
from grocery.fraud.model import Model
from grocery.fraud.scoring import FeatureServer, Scorer
from grocery.tests.shop import Shop, purchase
from millrace import pipeline
from tests import patience
from tests.conftest import set_home
from tests.kafka import Kafka

FIRST, DAY = date(2017, 2, 19), date(2017, 3, 2)
NOON = datetime(2017, 3, 2, 12, tzinfo=UTC)
STOLEN = 20
"""The first of ten customers of February; each has ten baskets, one a day, the last of which is fraud."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Customer 1: 3.00 on 1 March in store 10; 6.00 in two lines at noon of 2 March in store 10; 3.00 five minutes
    later in store 11.
    """
    home = tmp_path_factory.mktemp("fraud")
    with pytest.MonkeyPatch.context() as patch:
        set_home(home, patch)
        shop = Shop.open(home / "landing")
        noon, later = NOON.replace(tzinfo=None), (NOON + timedelta(minutes=5)).replace(tzinfo=None)
        lines = [purchase(3, at=noon), purchase(3, product=2, at=noon), purchase(4, at=later, store_id=11)]
        shop.land("transactions", lines, DAY)
        for n in range(10):
            day = FIRST + timedelta(days=n)
            at = datetime(day.year, day.month, day.day, 9)
            shop.land(
                "transactions",
                [
                    purchase(
                        100 * (n + 1) + customer,
                        customer=customer,
                        at=at + timedelta(minutes=customer),
                        sales_value=9.0 if (n + customer) % 10 == 0 else 1.0,
                    )
                    for customer in range(STOLEN, STOLEN + 10)
                ],
                day,
            )
        pipeline.run_all(str(FIRST), "2017-03-03", "run")
        pipeline.serve()
        yield home


# --- features


def entity(minutes: float, **other: Any) -> dict[str, Any]:
    moment = NOON + timedelta(minutes=minutes)
    return {"customer_id": 1, "store_id": 10, "line_amount": 6.0, "event_timestamp": moment, **other}


CASES = (
    # purchases, amount, stores of 10 minutes, then of 24 hours
    (entity(0), (0, 0.0, 0), (0, 0.0, 0), 3.0, 2.0, 0.0),  # lines of the instant itself do not count
    (entity(1), (1, 6.0, 1), (1, 6.0, 1), 3.0, 2.0, 0.0),
    (entity(6, store_id=12), (2, 9.0, 2), (2, 9.0, 2), 3.0, 2.0, 1.0),
    (entity(12, line_amount=1.5), (1, 3.0, 1), (2, 9.0, 2), 3.0, 0.5, 0.0),
    (entity(600, store_id=11), (0, 0.0, 0), (2, 9.0, 2), 3.0, 2.0, 0.0),
    (entity(0, customer_id=404), (None,) * 3, (None,) * 3, None, None, 1.0),
)
NAMES = ("purchases", "amount", "stores")


def answers(columns: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
    """In the form of CASES."""
    windows = [[*zip(*(columns[f"{name}_{window}"] for name in NAMES), strict=True)] for window in ("10m", "24h")]
    others = ("line_mean_90d", "line_to_mean_90d", "is_first_in_store")
    return [*zip(*windows, *(columns[name] for name in others), strict=True)]


def test_training_and_serving_give_the_values_of_each_instant(served: Path) -> None:
    store = registry.open_store()
    service, entities = store.get_feature_service("fraud_v1"), [case[0] for case in CASES]
    expected = [case[1:] for case in CASES]
    labels = pd.DataFrame(entities).assign(label=range(len(CASES)))
    trained = store.get_historical_features(labels, service).to_df().sort_values("label").astype(object)
    assert answers(trained.where(trained.notna(), None).to_dict("list")) == expected
    renamed = [
        {("request_time" if name == "event_timestamp" else name): value for name, value in row.items()}
        for row in entities
    ]
    assert answers(store.get_online_features(service, renamed).to_dict()) == expected


def test_the_gate_compares_features_that_take_a_number_from_the_request(served: Path) -> None:
    compared = {feature.feature: feature for feature in consistency.online().features}
    assert len(compared) == 44
    assert compared["line_to_mean_90d"].compared > 0
    assert not sum(feature.wrong for feature in compared.values())


def test_labels_must_say_what_the_request_would(served: Path) -> None:
    labels = pd.DataFrame([entity(0), entity(1)])
    with pytest.raises(LabelError, match="labels have no line_amount, which an on-demand feature of fraud_v1 takes"):
        training.create(labels.drop(columns="line_amount"), "fraud_v1", "without")
    training.create(labels, "fraud_v1", "with")
    assert training.read("with")["line_to_mean_90d"].to_pylist() == [2.0, 2.0]
    assert {found.future for found in training.check_leaks("with").features} == {0}


# --- invented fraud


REAL = pd.DataFrame(
    [
        purchase(basket, product=basket % 7 + 1, customer=basket % 3 + 1, at="2017-03-01 10:00:00", store_id=basket % 9)
        for basket in range(1, 90)
    ]
)


def test_fraud_is_invented_from_the_seed_and_labeled() -> None:
    days = date(2017, 3, 6), date(2017, 3, 26)
    lines, labels = injection.invent(REAL, *days, 3, 7)
    again = injection.invent(REAL, *days, 3, 7)
    pd.testing.assert_frame_equal(lines, again[0])
    assert not labels.equals(injection.invent(REAL, *days, 3, 8)[1])
    assert [*lines.columns] == [*REAL.columns]
    assert {*lines["basket_id"]} == {*labels["basket_id"]}
    assert labels["case"].nunique() == 60
    assert lines["basket_id"].min() >= injection.FIRST_BASKET
    assert not lines.duplicated(["basket_id", "product_id"]).any()
    assert {*lines["week"]} == {11, 12, 13}
    baskets = lines.merge(labels, on="basket_id").groupby("case")
    shapes = baskets.agg(kind=("kind", "first"), baskets=("basket_id", "nunique"), stores=("store_id", "nunique"))
    assert {*shapes["kind"]} == {*injection.KINDS}
    sprees = shapes[shapes["kind"] == injection.SPREE]
    assert {*sprees["baskets"]} == {3, 4, 5}
    assert (sprees["baskets"] == sprees["stores"]).all()
    assert {*shapes[shapes["kind"] != injection.SPREE]["baskets"]} == {1}
    lasted = labels.groupby("case")["at"].agg(lambda at: at.max() - at.min())
    assert lasted.max() <= timedelta(minutes=30)
    kinds = lines.merge(labels, on="basket_id")
    assert kinds[kinds["kind"] == injection.LARGE]["sales_value"].min() >= 3 * 3.0
    assert {*kinds[kinds["kind"] == injection.QUIET]["sales_value"]} == {3.0}


def test_precision_and_recall_are_counted_by_basket() -> None:
    baskets = pd.DataFrame({"is_fraud": [True, True, True, False, False]}, index=[1, 2, 3, 4, 5])
    flagged = pd.Series([True, False, True, True, False], index=baskets.index)
    kinds = pd.Series({1: "large", 2: "large", 3: "spree"})
    assert evaluation.quality(baskets, flagged, kinds) == {
        "flagged": 3,
        "hits": 2,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "recall_by_kind": {"large": 0.5, "spree": 1.0},
    }


def known(end: int = 10) -> pd.DataFrame:
    """The labels of the fraud in February."""
    rows = [(n, customer) for n in range(end) for customer in range(STOLEN, STOLEN + 10) if (n + customer) % 10 == 0]
    start = datetime(FIRST.year, FIRST.month, FIRST.day, 9)
    return pd.DataFrame(
        {
            "basket_id": [100 * (n + 1) + customer for n, customer in rows],
            "customer_id": [customer for _, customer in rows],
            "kind": "large",
            "at": [start + timedelta(days=n) for n, _ in rows],
        }
    )


def keep_labels(labels: pd.DataFrame) -> None:
    injection.labels_file().parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pandas(labels), injection.labels_file())


def test_a_model_learns_from_the_first_days_and_is_measured_on_the_last(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(model.PARAMETERS, "min_data_in_leaf", 1)
    keep_labels(known())
    name = model.create_training_set()
    assert model.create_training_set() == name
    assert training.read(name).num_rows == 100
    fitted = model.train(name, 7)
    figures = fitted.about["methods"]
    assert fitted.about["periods"] == {
        name: f"2017-02-{day}" for name, day in (("start", 19), ("choose", 24), ("test", 25), ("end", "28+1"))
    } | {"end": "2017-03-01"}
    assert fitted.about["rows"] == 50
    assert (figures["model"]["precision"], figures["model"]["recall"]) == (1.0, 1.0)
    loaded = model.load()
    lines = training.read(name).to_pandas()
    assert loaded.name == fitted.name
    assert loaded.scores(lines).tolist() == fitted.scores(lines).tolist()
    with pytest.raises(FraudError, match=r"needs .*line_amount.*Train it again"):
        loaded.scores(lines.drop(columns="line_amount"))
    with pytest.raises(FraudError, match="there is no model other"):
        model.load("other")


def test_labels_that_the_release_does_not_have_are_refused(served: Path) -> None:
    labels = known()
    keep_labels(labels.assign(basket_id=labels["basket_id"] + 10**6))
    with pytest.raises(FraudError, match="the release has none of the invented baskets"):
        model.create_training_set(say=lambda _: None)
    keep_labels(labels.assign(at=labels["at"] + timedelta(days=30)))
    with pytest.raises(FraudError, match=r"knows the days before 2017-03-03, and fraud was invented up to 2017-03-31"):
        model.create_training_set()
    injection.labels_file().unlink()
    with pytest.raises(FraudError, match="Invent fraud first"):
        injection.labels()
    lines = pd.DataFrame(columns=[*evaluation.VELOCITY, *evaluation.AMOUNT, "score", "is_fraud", "basket_id"])
    empty = lines.assign(event_timestamp=pd.Series([], dtype="datetime64[us, UTC]"))
    with pytest.raises(FraudError, match="there is no invented fraud from 2017-02-24"):
        evaluation.judge(empty, known(), Periods.of(known()))


# --- the scoring service


class Booster:
    """Scores that a reader can compute: a tenth for each basket of 10 minutes, half for a new store."""

    def predict(self, lines: pd.DataFrame, num_threads: int) -> np.ndarray:
        assert num_threads == 1
        filled = lines.fillna(0)
        return (filled["purchases_10m"] / 10 + filled["is_first_in_store"] / 2).to_numpy()


MODEL = Model(Booster(), ("purchases_10m", "is_first_in_store", "line_amount"), 0.5, {"name": "test"})


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    with Kafka() as kafka:
        yield kafka


@dataclass
class Service:
    """The service on topics of the test's own."""

    kafka: Kafka
    topic: str
    scores_topic: str
    said: list[str]
    client: Any

    def scorer(self) -> Scorer:
        return Scorer(MODEL, FeatureServer(self.client), self.scores_topic, self.scores_topic, self.said.append)

    def produce(self, *lines: dict[str, Any] | bytes | None) -> None:
        values = [line if not isinstance(line, dict) else json.dumps(line, default=str).encode() for line in lines]
        self.kafka.produce(self.topic, *values)

    def committed(self, scorer: Scorer) -> int:
        [position] = scorer._consumer.committed([TopicPartition(self.topic, 0)], 30)
        return int(position.offset)

    def until(self, scorer: Scorer, offset: int) -> None:
        """Step until this offset is committed."""
        patience.until(lambda: (scorer.step(), self.committed(scorer) == offset)[1], f"{offset} is not committed")

    def scores(self) -> list[tuple[str, dict[str, Any]]]:
        """All that was written: keys and values."""
        consumer = Consumer(
            {"bootstrap.servers": self.kafka.url, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([self.scores_topic])
        end = self.kafka._ends(self.scores_topic, IsolationLevel.READ_UNCOMMITTED)
        found: list[tuple[str, dict[str, Any]]] = []
        while len(found) < end:
            found += [((m.key() or b"").decode(), json.loads(m.value() or b"")) for m in consumer.consume(100, 0.2)]
        consumer.close()
        return found


@pytest.fixture
def service(served: Path, broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("MILLRACE_KAFKA", broker.url)
    topic = f"transactions-{uuid.uuid4().hex[:8]}"
    broker.create(topic)
    monkeypatch.setitem(scoring.bronze().__dict__, "topic", Topic(topic))
    scores = f"scores-{topic}"
    scoring.create_topic(scores)
    with TestClient(app(), base_url="http://127.0.0.1:6566", raise_server_exceptions=False) as client:
        yield Service(broker, topic, scores, [], client)


def line(minutes: float, basket: int, **other: Any) -> dict[str, Any]:
    at = (NOON + timedelta(minutes=minutes)).isoformat()
    return {**purchase(basket, **other), "transaction_timestamp": at}


def test_each_line_gets_one_score_at_its_instant_and_others_are_skipped(service: Service) -> None:
    scorer = service.scorer()
    too_old = line(0, 9, at=None) | {"transaction_timestamp": "2016-12-01T00:00:00Z"}
    poison = [b"{", None, {"household_id": 1}, line(1, 0), too_old]
    service.produce(line(0, 5), poison[0], line(6, 6, store_id=12), *poison[1:], line(6, 7, product=2))
    service.until(scorer, 8)
    scorer.report()
    found = dict(service.scores())
    assert {name: (value["score"], value["is_suspicious"]) for name, value in found.items()} == {
        "5-1": (0.0, False),
        "6-1": (0.7, True),
        "7-2": (0.2, False),
    }
    assert found["6-1"] == {
        "basket_id": 6,
        "product_id": 1,
        "customer_id": 1,
        "store_id": 12,
        "at": "2017-03-02T12:06:00+00:00",
        "score": 0.7,
        "is_suspicious": True,
        "model": "test",
        "partition": 0,
        "offset": 2,
    }
    reasons = {reason.split(": ")[0]: count for reason, count in scorer.skipped.items()}
    assert reasons == {
        "it is not JSON": 1,
        "it has no value, and a table of rows has no use for a deletion": 1,
        "basket_id is missing": 1,
        "basket_id is below 1": 1,
        "refused by the feature server, such as": 1,
    }
    assert "3 lines scored, 1 of them suspicious; 5 skipped" in service.said[-1]
    scorer.report()
    assert len(service.said) == 1


def test_after_a_kill_lines_are_scored_again_under_the_same_keys(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.produce(*(line(n, 10 + n) for n in range(5)))

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    killed = service.scorer()
    with monkeypatch.context() as patch:
        patch.setattr(killed, "_commit", die)
        with pytest.raises(KeyboardInterrupt):
            service.until(killed, 5)
    killed._consumer.close()
    before = service.scores()
    assert len(before) > 0
    restarted = service.scorer()
    service.until(restarted, 5)
    after = service.scores()
    assert len(after) == len(before) + 5
    assert {name for name, _ in after} == {f"{10 + n}-1" for n in range(5)}
    assert len({json.dumps(score) for score in after}) == 5, "the same scores"
    restarted._consumer.close()
    third = service.scorer()
    service.produce(line(9, 99))
    service.until(third, 6)
    assert third.scored == 1


def test_it_waits_for_the_feature_server_and_says_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "FIRST_PAUSE", 0.05)
    up = service.client
    with httpx.Client(base_url="http://127.0.0.1:9", timeout=1, trust_env=False) as down:
        service.client = down
        service.produce(line(0, 5), line(6, 6))
        scorer = service.scorer()

        def stop_or_swap(text: str) -> None:
            service.said.append(text)
            if text.startswith("waiting"):
                scorer._server = FeatureServer(up)

        scorer._say = stop_or_swap
        service.until(scorer, 2)
    assert "does not answer" in service.said[0]
    assert service.said[1] == "going on"
    assert len(service.scores()) == 2


def test_it_ends_while_it_waits_and_commits_nothing(service: Service) -> None:
    with httpx.Client(base_url="http://127.0.0.1:9", timeout=1, trust_env=False) as down:
        service.client = down
        service.produce(line(0, 5))
        scorer = service.scorer()
        scorer._say = lambda text: (service.said.append(text), scorer.ended.set() if "waiting" in text else None)[0]
        scorer.run()
    assert service.kafka.committed(service.scores_topic, service.topic, 0) < 0
    assert service.scores() == []


def server_of(handler: Callable[[httpx.Request], httpx.Response]) -> FeatureServer:
    return FeatureServer(httpx.Client(base_url="http://features", transport=httpx.MockTransport(handler)))


def test_a_refusal_of_every_line_is_the_server_s_trouble(served: Path) -> None:
    refusing = server_of(lambda _: httpx.Response(422, json={"detail": "the view is disabled"}))
    row = scoring.decode([scoring.Message(0, 0, json.dumps(line(0, 5)).encode())])[0][0]
    assert not refusing.answers_for(row)
    with pytest.raises(scoring.RefusedError, match="answers 422: the view is disabled"):
        refusing.features([row])
    for response in (httpx.Response(200, json=[]), httpx.Response(404, text="no"), httpx.Response(200, text="{")):
        with pytest.raises(scoring.ServerError) as caught:
            server_of(lambda _, response=response: response).features([row])
        assert not isinstance(caught.value, scoring.RefusedError)


def test_scores_that_cannot_be_written_end_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_KAFKA_CONF", "topic.metadata.propagation.max.ms=300")
    service.produce(line(0, 5))
    scorer = Scorer(MODEL, FeatureServer(service.client), "other", "no-such-topic", service.said.append)
    with pytest.raises(scoring.StreamError, match="1 scores could not be written to no-such-topic"):
        service.until(scorer, 1)
    assert service.committed(scorer) < 0


def test_without_brokers_it_says_what_to_set(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILLRACE_KAFKA", raising=False)
    with pytest.raises(scoring.StreamError, match="MILLRACE_KAFKA is not set"):
        scoring.create_topic("scores")


def test_a_landed_day_is_replayed_in_order(service: Service) -> None:
    assert scoring.replay(DAY) == 3
    scorer = service.scorer()
    service.until(scorer, 3)
    assert [name for name, _ in service.scores()] == ["3-1", "3-2", "4-1"]
    with pytest.raises(FraudError, match="no purchases of 2017-03-09 have landed"):
        scoring.replay(date(2017, 3, 9))
