"""A lake behind TLS: one setting is enough for each client, and what is wrong is one sentence, in bounded time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from etl import engine
from lake import bucket, storage
from lake.bucket import StorageError
from tests.certificates import Certificates
from tests.gateway import BUCKET, Gateway
from tests.integration.bucket.conftest import use

LAKE = f"s3://{BUCKET}/lake"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[dict[str, Gateway]]:
    """A gateway for each certificate that a server may show."""
    shown = {"server": certificates.server, "expired": certificates.expired, "elsewhere": certificates.elsewhere}
    running = {name: Gateway.start(tmp_path_factory.mktemp(name) / "buckets", pair) for name, pair in shown.items()}
    yield running
    for gateway in running.values():
        gateway.stop()


def write(client: str) -> object:
    """Write something to the lake, and read it."""
    table = f"{LAKE}/{client}"
    if client == "obstore":
        storage.write_whole(bucket.to_path(table), b"1")
        return storage.read(bucket.to_path(table))
    if client == "delta-rs":
        write_deltalake(table, pa.table({"a": [1]}), mode="overwrite")
        return DeltaTable(table).to_pyarrow_table().to_pydict()
    if client == "sail":
        session = engine.session()
        session.createDataFrame([(1,)], "a int").write.mode("overwrite").parquet(table)
        return session.read.parquet(table).collect()[0].a
    return boto3.client("s3").head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    ("client", "answer"), [("obstore", b"1"), ("delta-rs", {"a": [1]}), ("sail", 1), ("boto3", 200)]
)
def test_each_client_trusts_the_authority_of_the_one_setting(
    encrypted: dict[str, Gateway],
    certificates: Certificates,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    answer: object,
) -> None:
    environment = {**encrypted["server"].environment(), "AWS_CA_BUNDLE": str(certificates.authority)}
    use(monkeypatch, environment, LAKE)
    assert write(client) == answer


WRONG = {
    "another authority": (
        "server",
        {"AWS_CA_BUNDLE": "stranger"},
        r"the certificate of https://127.0.0.1:\d+ is not trusted, since no authority known here has issued it\."
        r" Check that AWS_CA_BUNDLE \(\S+/stranger\.pem\) has the certificate of that authority, in PEM$",
    ),
    "no authority": (
        "server",
        {},
        r"is not trusted, .*\. Set AWS_CA_BUNDLE to a file with the certificate of that authority",
    ),
    "SSL_CERT_FILE goes first": (
        "server",
        {"AWS_CA_BUNDLE": "authority", "SSL_CERT_FILE": "stranger"},
        r"is not trusted, .*\. Check that SSL_CERT_FILE \(\S+/stranger\.pem\) has",
    ),
    "expired": ("expired", {"AWS_CA_BUNDLE": "authority"}, r"has expired\. Renew the certificate at the server"),
    "another host": (
        "elsewhere",
        {"AWS_CA_BUNDLE": "authority"},
        r"is for another host name\. Use a host name that it lists",
    ),
    "no TLS": (
        "plain",
        {"AWS_CA_BUNDLE": "authority"},
        r"https://127.0.0.1:\d+ does not speak TLS\. Begin AWS_ENDPOINT_URL with http://",
    ),
    "only TLS": ("server", {}, r"http://127.0.0.1:\d+ speaks TLS only\. Begin AWS_ENDPOINT_URL with https://"),
}


SLOW = [("expired", "delta-rs"), ("another host", "delta-rs"), ("another authority", "sail"), ("only TLS", "sail")]
"""Clients that try for two to four seconds. delta-rs has the library of obstore inside, and Sail never says why."""


@pytest.mark.parametrize(("case", "client"), [*((case, "obstore") for case in WRONG), *SLOW])
def test_what_is_wrong_is_told(
    encrypted: dict[str, Gateway],
    gateway: Gateway,
    certificates: Certificates,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    client: str,
) -> None:
    """Each client's own words are understood."""
    server, authorities, sentence = WRONG[case]
    named = {name: str(getattr(certificates, which)) for name, which in authorities.items()}
    environment = {**{**encrypted, "plain": gateway}[server].environment(), **named}
    if case in ("no TLS", "only TLS"):
        scheme, _, rest = environment["AWS_ENDPOINT_URL"].partition("://")
        environment["AWS_ENDPOINT_URL"] = f"{'https' if scheme == 'http' else 'http'}://{rest}"
    use(monkeypatch, environment, LAKE)
    started = time.monotonic()
    with pytest.raises(Exception) as failure:  # noqa: PT011 (each client has errors of its own)
        write(client)
    fault, remedy = bucket.explain(str(failure.value)) or ("", "")
    told = str(failure.value) if isinstance(failure.value, StorageError) else f"{fault}. {remedy}"
    assert time.monotonic() - started < 30
    assert re.search(sentence, told), told
    assert environment["AWS_SECRET_ACCESS_KEY"] not in told


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "which cannot be read: No such file or directory"),
        (b"-----BEGIN PRIVATE KEY-----", "which holds no certificate in PEM"),
    ],
)
def test_a_bundle_that_holds_no_authority_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, fault: str
) -> None:
    bundle = home / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(StorageError, match=rf"^AWS_CA_BUNDLE names {bundle}, {fault}\. Name a file with"):
        bucket.to_path(LAKE)
