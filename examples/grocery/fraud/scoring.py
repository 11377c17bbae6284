"""The scoring service: purchases from the topic `transactions` in, scores to the topic `fraud_scores` out.

A message is one line of a basket. It gets one score, from the features of `fraud_v1` at its own instant. Offsets are
committed after the scores are written, so a kill repeats some scores and loses none; their key, basket and product,
makes a repeated score an update. While the feature server does not answer, the service waits.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from contracts import catalog
from contracts.model import Table
from etl.sources import kafka, messages
from etl.sources.group import SESSION_SECONDS
from etl.sources.kafka import StreamError
from etl.sources.messages import Message
from grocery.fraud.injection import FraudError
from grocery.fraud.model import AMOUNT, SERVICE, Model, load
from lake import settings

if TYPE_CHECKING:
    import httpx

MOST_LINES, POLL_SECONDS = 500, 0.1
"""Lines of one request to the feature server, and how long to wait for that many."""
REQUEST_SECONDS, FLUSH_SECONDS, REPORT_SECONDS = 10.0, 2.0, 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two attempts to reach the feature server."""
IDS = ("basket_id", "product_id", "customer_id", "store_id")
REFUSED = 422
"""The status of a request with entities that have no answer. Any other error is the server's, and may pass."""
Row = dict[str, Any]
Say = Callable[[str], None]


class ServerError(RuntimeError):
    """The feature server gives no features now; the text says why."""


class RefusedError(ServerError):
    """The feature server refuses these lines."""


# --- features


@dataclass(frozen=True)
class FeatureServer:
    """Gives the features of lines over HTTP."""

    client: httpx.Client

    def features(self, lines: Sequence[Row], at: datetime | None = None) -> pd.DataFrame:
        """The features of each line at its own instant, or of all of them at `at`, and its amount."""
        entities = {name: [line[name] for line in lines] for name in ("customer_id", "store_id", AMOUNT)}
        entities["request_time"] = [(at or line["at"]).isoformat() for line in lines]
        answer = self._post({"feature_service": SERVICE, "entities": entities})
        try:
            names = answer["metadata"]["feature_names"]
            columns = {name: result["values"] for name, result in zip(names, answer["results"], strict=True)}
            return pd.DataFrame({**columns, AMOUNT: entities[AMOUNT]})
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self.client.base_url} is no feature server: {str(answer)[:200]}") from error

    def answers_for(self, line: Row) -> bool:
        """Whether it has features of the line now: then it is the line's instant that it refuses."""
        try:
            self.features([line], datetime.now(UTC))
        except ServerError:
            return False
        return True

    def _post(self, body: Row) -> Any:
        import httpx

        try:
            response = self.client.post("/get-online-features", json=body)
            if response.status_code == httpx.codes.OK:
                return response.json()
        except (httpx.HTTPError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"the feature server at {self.client.base_url} does not answer: {reason}") from error
        kind = RefusedError if response.status_code == REFUSED else ServerError
        raise kind(f"the feature server answers {response.status_code}: {_detail(response)}")


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])[:300]
    except (ValueError, KeyError, TypeError):
        return response.text[:300]


# --- lines


def decode(batch: Sequence[Message]) -> tuple[list[Row], list[str]]:
    """The lines that messages hold, and for each other message why it holds none."""
    decoded = messages.decode(bronze(), batch, datetime.now(UTC).date())
    poison = [rejected.reasons[0] for rejected in decoded.rejected]
    lines: list[Row] = []
    for message, row in zip(decoded.messages, decoded.rows.to_pylist(), strict=True):
        line = {
            "basket_id": row["basket_id"],
            "product_id": row["product_id"],
            "customer_id": row["household_id"],
            "store_id": row["store_id"],
            AMOUNT: row["sales_value"],
            "at": row["transaction_timestamp"],
        }
        wrong = [f"{name} is missing" for name, value in line.items() if value is None]
        wrong += [f"{name} is below 1" for name in IDS if line[name] is not None and line[name] < 1]
        if wrong:
            poison.append(wrong[0])
        else:
            lines.append(line | {"partition": message.partition, "offset": message.offset})
    return lines, poison


def bronze() -> Table:
    """The table whose topic has the lines."""
    return catalog.table("bronze.transactions")


def key(line: Row) -> bytes:
    """The key of a line's score."""
    return f"{line['basket_id']}-{line['product_id']}".encode()


# --- the service


class Scorer:
    """Reads lines as a member of a consumer group, and writes their scores."""

    def __init__(self, model: Model, server: FeatureServer, group: str, topic: str, say: Say) -> None:
        from confluent_kafka import Consumer, Producer

        self.ended = threading.Event()
        self.scored, self.suspicious, self.skipped = 0, 0, Counter[str]()
        self._model, self._server, self._topic, self._say = model, server, topic, say
        self._problem, self._reported, self._reported_at = "", (0, 0, 0), time.monotonic()
        self._failed: list[str] = []
        consumer = {
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "session.timeout.ms": SESSION_SECONDS * 1000,
            "heartbeat.interval.ms": SESSION_SECONDS * 1000 // 4,
            "error_cb": lambda error: self._note(f"Kafka: {error.str()}"),
        }
        producer = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 0}
        self._consumer = kafka.connect(lambda conf: Consumer(conf, logger=kafka.CLIENT_LOG), consumer)
        self._producer = kafka.connect(lambda conf: Producer(conf, logger=kafka.CLIENT_LOG), producer)
        self._consumer.subscribe([messages.topic_of(bronze())])

    def run(self) -> None:
        """Score until `ended`."""
        try:
            while not self.ended.is_set():
                self.step()
        finally:
            self.report()
            self._consumer.close()

    def step(self) -> None:
        """Score the lines of the next moment, if any, then commit their offsets."""
        batch = [*self._read()]
        if batch:
            lines, poison = decode(batch)
            if not self._score(lines):
                return  # it is ending: the next process reads the batch again
            self.skipped.update(poison)
            self._commit(batch)
        if time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        """Say what was scored and skipped since the last report."""
        counts = (self.scored, self.suspicious, self.skipped.total())
        scored, suspicious, skipped = (now - then for now, then in zip(counts, self._reported, strict=True))
        if scored or skipped:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in self.skipped.most_common(5))
            text = f"{scored:,} lines scored, {suspicious:,} of them suspicious"
            self._say(f"{text}; {skipped:,} skipped (so far {reasons})" if skipped else text)
        self._reported, self._reported_at = counts, time.monotonic()

    def _read(self) -> Iterator[Message]:
        for received in self._consumer.consume(MOST_LINES, POLL_SECONDS):
            if failure := received.error():
                self._note(f"Kafka: {failure.str()}")
            else:
                yield Message(received.partition() or 0, received.offset() or 0, received.value())

    def _score(self, lines: Sequence[Row]) -> bool:
        """Write the scores of lines; False where it is to end before the feature server has answered."""
        parts, pause = [lines] if lines else [], FIRST_PAUSE
        while parts:
            part = parts.pop()
            try:
                features = self._server.features(part)
            except ServerError as error:
                if isinstance(error, RefusedError) and len(part) > 1:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
                elif isinstance(error, RefusedError) and self._server.answers_for(part[0]):
                    self.skipped[f"refused by the feature server, such as: {error}"] += 1
                else:
                    parts.append(part)
                    self._note(f"waiting: {error}")
                    if not self._wait(pause):
                        return False
                    pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._note("")
            self._write(part, features)
        return self._flush()

    def _write(self, lines: Sequence[Row], features: pd.DataFrame) -> None:
        for line, score in zip(lines, self._model.scores(features).tolist(), strict=True):
            is_suspicious = score >= self._model.threshold
            value = {
                **{name: line[name] for name in IDS},
                "at": line["at"].isoformat(),
                "score": round(score, 6),
                "is_suspicious": is_suspicious,
                "model": self._model.name,
                "partition": line["partition"],
                "offset": line["offset"],
            }
            self._producer.produce(self._topic, json.dumps(value).encode(), key(line), on_delivery=self._delivered)
            self._producer.poll(0)
            self.scored, self.suspicious = self.scored + 1, self.suspicious + is_suspicious

    def _delivered(self, error: Any, _message: Any) -> None:
        if error:
            self._failed.append(error.str())

    def _flush(self) -> bool:
        """Wait until the brokers have all scores; False where it is to end before. StreamError if they refuse one."""
        while left := self._producer.flush(FLUSH_SECONDS):
            self._note(f"waiting: the brokers have not taken {left:,} scores yet")
            if not self._wait(POLL_SECONDS):
                return False
        if self._failed:
            raise StreamError(
                f"{len(self._failed):,} scores could not be written to {self._topic}: {self._failed[0]}. Create the"
                " topic, or allow this user to write to it, and start again: the lines are scored again"
            )
        return True

    def _commit(self, batch: Sequence[Message]) -> None:
        """Commit the offsets after a batch. If that fails, its lines are scored again: the same keys."""
        from confluent_kafka import KafkaException, TopicPartition

        ends: dict[int, int] = {}
        for message in batch:
            ends[message.partition] = max(ends.get(message.partition, 0), message.offset + 1)
        topic = messages.topic_of(bronze())
        try:
            self._consumer.commit(offsets=[TopicPartition(topic, *end) for end in ends.items()], asynchronous=False)
        except KafkaException as error:
            self._note(f"offsets are not committed, and their lines may be scored again: {error.args[0].str()}")

    def _wait(self, seconds: float) -> bool:
        """Wait, as a living member of the group that reads nothing; False where it is to end."""
        assigned = self._consumer.assignment()
        self._consumer.pause(assigned)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended.is_set():
            self._consumer.poll(POLL_SECONDS)
        self._consumer.resume(self._consumer.assignment())
        return not self.ended.is_set()

    def _note(self, problem: str) -> None:
        """Say a problem once, and that it is over."""
        if problem != self._problem:
            self._say(problem or "going on")
        self._problem = problem


def run(name: str | None, url: str | None, group: str, topic: str) -> int:
    """Score until SIGTERM or SIGINT. StreamError without brokers, FraudError without a model."""
    import httpx

    model, base = load(name), url or f"http://127.0.0.1:{settings.features_port()}"
    with httpx.Client(base_url=base, timeout=REQUEST_SECONDS, trust_env=False) as client:
        scorer = Scorer(model, FeatureServer(client), group, topic, print_line)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: scorer.ended.set())
        create_topic(topic)
        print_line(f"Scoring {messages.topic_of(bronze())} into {topic} with model {model.name}, features from {base}")
        scorer.run()
    return 0


def print_line(text: str) -> None:
    """Print a line with the time, at once."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


def create_topic(name: str) -> None:
    """Create the topic of scores where there is none: compacted, so that of several scores of a line the last stays."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin = kafka.connect(AdminClient)
    topic = NewTopic(name, num_partitions=-1, replication_factor=-1, config={"cleanup.policy": "compact"})
    try:
        admin.create_topics([topic], request_timeout=kafka.TIMEOUT)[name].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise StreamError(
                f"the topic {name} cannot be created: {error.args[0].str()}. Create it, and see that MILLRACE_KAFKA"
                " names the brokers"
            ) from None


# --- purchases to score


def replay(day: date) -> int:
    """Write a day's landed lines to the topic in the order of their instants, keyed by customer; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from confluent_kafka import Producer

    files = sorted((settings.landing() / "transactions" / str(day)).glob("*.parquet"))
    if not files:
        raise FraudError(f"no purchases of {day} have landed in {settings.landing()}. Give another day")
    rows = pa.concat_tables([pq.read_table(file) for file in files], promote_options="permissive")
    producer = kafka.connect(lambda conf: Producer(conf, logger=kafka.CLIENT_LOG), {"acks": "all"})
    for row in rows.sort_by([("transaction_timestamp", "ascending")]).to_pylist():
        value = json.dumps({**row, "transaction_timestamp": row["transaction_timestamp"].isoformat()}).encode()
        producer.produce(messages.topic_of(bronze()), value, str(row["household_id"]).encode())
        producer.poll(0)
    if producer.flush():
        raise StreamError("the brokers do not take the messages. See that MILLRACE_KAFKA names them")
    return len(rows)
