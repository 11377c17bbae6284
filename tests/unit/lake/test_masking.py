"""No password is shown, whatever the value that holds it: neither by `millrace settings` nor in a refusal."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lake import bucket, settings, storage, variables
from lake.masking import mask_url
from millrace import cli, pipeline

SECRET = "s3cr3t"
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
SECRETS = ("ADMIN_PASSWORD", "ONLINE", "REGISTRY", "DATABASE", "ENGINE")
URLS = ("PUBLIC_URL", "PUBLIC_FEATURES_URL", "API_URL", "TASK_LOGS", "LAKE", "LANDING")
SCHEMES = ("http://", "https://", "s3://", "s3a://", "gs://", "s3:/", "redis://", "postgresql://", "")


@pytest.fixture(autouse=True)
def _environment(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "project_problems", list)  # takes 0.5 s, and reads no setting


def printed() -> Iterator[str]:
    for arguments in (["settings"], ["settings", "--json"], ["check"]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.main(arguments)
        yield out.getvalue()


def ensure_hidden(name: str, value: str) -> None:
    variable = variables.all_variables()[f"MILLRACE_{name}"]
    assert SECRET not in variable.shown(value)
    assert SECRET not in variable.error(value)
    with mock.patch.dict(os.environ, {variable.name: value}):
        assert SECRET not in "".join(variables.problems())
        if name in ("LAKE", "LANDING"):
            with contextlib.suppress(bucket.StorageError, OSError):
                storage.to_path(value) if storage.is_remote(value) else None
        for text in printed():
            assert SECRET not in text


quick = hypothesis_settings(
    deadline=None,
    max_examples=25 * settings.parse("MILLRACE_TEST_EFFORT", os.environ.get("MILLRACE_TEST_EFFORT", "1")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quick
@given(st.sampled_from(SECRETS), st.sampled_from(SCHEMES), TEXT, TEXT)
@example("ADMIN_PASSWORD", "", "", "://more")
@example("ONLINE", "", "u:", "@h://x")
@example("ENGINE", "", "sc:/x;token=", "")
def test_a_secret_is_hidden(name: str, scheme: str, before: str, after: str) -> None:
    ensure_hidden(name, f"{scheme}{before}{SECRET}{after}")


@quick
@given(st.sampled_from(URLS), st.sampled_from(SCHEMES), TEXT, TEXT)
@example("PUBLIC_URL", "http://", "", "")
@example("LAKE", "s3://", "a/", "/b")
@example("TASK_LOGS", "", "", "")
def test_the_password_of_a_url_is_hidden(name: str, scheme: str, before: str, after: str) -> None:
    ensure_hidden(name, f"{scheme}AKIA:{before}{SECRET}{after}@bucket/x")


@quick
@given(TEXT, TEXT)
@example("", ",more")
@example("", ",more=x")
def test_values_of_spark_are_hidden(before: str, after: str) -> None:
    ensure_hidden("SPARK_CONF", f"spark.hadoop.fs.s3a.secret.key={before}{SECRET}{after}")
    ensure_hidden("SPARK_CONF", f"{before}{SECRET}{after}")


def test_a_password_equal_to_a_default_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = variables.all_variables()
    assert [listed["MILLRACE_ADMIN_PASSWORD"].shown(word) for word in ("sqlite", "sail", "spark")] == ["***"] * 3
    assert (listed["MILLRACE_ENGINE"].shown("sail"), listed["MILLRACE_ENGINE"].shown("sqlite")) == ("sail", "***")
    monkeypatch.setenv("MILLRACE_ADMIN_PASSWORD", "sqlite")
    rows = json.loads(next(text for text in printed() if text.startswith("[")))
    assert {row["value"] for row in rows if row["name"] == "MILLRACE_ADMIN_PASSWORD"} == {"***"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@h:80/x", "http://***@h:80/x"),
        ("http://token@h/?key=p", "http://***@h/?***"),
        ("s3://AKIA:a/b@c@bucket/x", "s3://***@bucket/x"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("/srv/lake@2", "/srv/lake@2"),
        ("local[*]", "local[*]"),
        ("debian:bookworm@sha256:0", "debian:bookworm@sha256:0"),
    ],
)
def test_what_is_no_secret_stays(text: str, shown: str) -> None:
    assert mask_url(text) == shown


def test_keys_of_spark_are_shown() -> None:
    variable = variables.all_variables()["MILLRACE_SPARK_CONF"]
    assert variable.shown("spark.a=1, spark.b=2") == "spark.a=***,spark.b=***"


@pytest.mark.parametrize("root", ["s3://AKIA:s3cr3t@bucket/x", "s3://AKIA:s3/cr3t@bucket/x", "gs://a:s3cr3t@bucket/x"])
def test_a_bucket_with_a_password_is_refused_without_it(root: str) -> None:
    with pytest.raises(bucket.StorageError, match=r"\w+://\*\*\*@bucket/x ") as caught:
        bucket.to_path(root)
    assert "cr3t" not in str(caught.value)
