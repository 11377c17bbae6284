"""Training sets: made from labels and a feature service, stored as a Delta table with a manifest, and rebuilt from the
manifest to the same bytes.

The manifest is written last: files that a killed run left behind are no training set, and the next one of that name
replaces them.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction

from contracts import project
from features.lake_reader import pinned
from features.offline.labels import EVENT_TIMESTAMP, Horizon
from features.training import availability, code, columns, joining, label_input, services
from features.training.joining import Say
from features.training.label_input import LabelInput
from features.training.services import Service
from lake import manifest, settings, storage
from lake.bucket import LockedError
from lake.manifest import Data, Feature, Manifest
from lake.release import Release

LOCK_SECONDS = 600
FILE = "data.zst.parquet"


class TrainingSetError(RuntimeError):
    """A training set cannot be made, or does not match its manifest; the message says what to do."""


class DefinitionsChangedError(TrainingSetError):
    """The feature definitions changed since the training set was made."""


@dataclass(frozen=True)
class RebuildResult:
    """A rebuilt training set, whose values are the same.

    `same_file`: whether the parquet file is identical byte for byte; None where another version of pyarrow wrote it.
    `intact`: the stored table already had these values; `restored`: it did not, and was replaced.
    """

    manifest: Manifest
    data: pa.Table
    same_file: bool | None
    intact: bool
    restored: bool


def create(
    labels: LabelInput,
    service: str,
    name: str,
    *,
    release: int | None = None,
    knowledge_time: bool = False,
    seed: int | None = None,
    allow_beyond_horizon: bool = False,
    say: Say = lambda _: None,
) -> Manifest:
    """Join labels (a frame, an Arrow table, the path of a file, or SQL) with the features of a service, and store table
    and manifest under a name.

    `release` defaults to the newest. With `knowledge_time`, each label reads the release in force at its instant, up to
    that one. `seed` is only recorded.

    BeyondHorizonError when labels lie after the horizon of `release`, unless that is allowed; then the manifest's
    `beyond_horizon` counts them.
    """
    with _lock(f"training.{manifest.validate_name(name)}"):
        if name in manifest.names():
            raise TrainingSetError(
                f"there is a training set {name} already, and it is never altered. Choose another name, or see it:"
                f" millrace training-set show {name}"
            )
        feature_service, pinned_release = services.load(service), pinned(release)
        rows = label_input.table(labels, pinned_release, feature_service)
        say(
            f"{rows.num_rows:,} labels; reading {len(feature_service.columns)} features of {service} from release"
            f" {pinned_release.number}"
        )
        beyond = _beyond(rows, Horizon.of(pinned_release), allow_beyond_horizon, say)
        used = (
            joining.releases_needed(rows, feature_service, joining.known_releases(rows, pinned_release.number))
            if knowledge_time
            else (feature_service.of(pinned_release),)
        )
        data = _join(rows, feature_service, used, knowledge_time, say)
        return _keep(
            name,
            rows,
            data,
            feature_service,
            pinned_release,
            used,
            knowledge_time=knowledge_time,
            seed=seed,
            beyond=beyond,
        )


def _beyond(rows: pa.Table, horizon: Horizon, allowed: bool, say: Say) -> int:
    instants = rows[EVENT_TIMESTAMP]
    beyond = horizon.count_beyond(instants)
    if beyond and not allowed:
        raise horizon.error(beyond, rows.num_rows, pc.max(instants).as_py())
    if beyond:
        say(horizon.warning(beyond, rows.num_rows))
    return beyond


def read(name: str) -> pa.Table:
    """The rows of a training set; TrainingSetError unless they match its manifest."""
    record = manifest.read(name)
    data = _stored(name)
    if data is None or not _matches_manifest(record, data):
        raise TrainingSetError(
            f"the table of training set {name} at {manifest.table_path(name)} was lost or altered since. Put it back:"
            f" millrace training-set rebuild {name}"
        )
    return data


def rebuild(name: str, *, write: bool = True, say: Say = lambda _: None) -> RebuildResult:
    """Rebuild a training set from its manifest and labels. A lost or altered table is restored, unless `write` is
    False.
    """
    with _lock(f"training.{manifest.validate_name(name)}"):
        record = manifest.read(name)
        service = defined_as(record)
        availability.ensure_available(record.versions, f"training set {name}")
        data = _join(_labels(record), service, record.releases, record.knowledge_time, say)
        _ensure_same_values(record, columns.digests(data))
        file = columns.parquet(data)
        same = hashlib.sha256(file).hexdigest() == record.data.file if pa.__version__ == record.code.pyarrow else None
        stored = _stored(name)
        intact = stored is not None and _matches_manifest(record, stored)
        restored = write and not intact
        if restored:
            _put(name, file, data)
        return RebuildResult(record, data, same, intact, restored)


def defined_as(record: Manifest) -> Service:
    """The manifest's service; DefinitionsChangedError when it or one of its views was redefined."""
    try:
        service = services.load(record.service)
    except services.ServiceError as error:
        raise DefinitionsChangedError(
            f"training set {record.name} was made of a feature service that is gone: {error}. {_rebuild_hint(record)}"
        ) from None
    if differing := services.differing(record.definitions, service.definitions):
        raise DefinitionsChangedError(
            f"training set {record.name} was made of features that are defined in another way now:"
            f" {', '.join(differing)}. {_rebuild_hint(record)}"
        )
    return service


def _rebuild_hint(record: Manifest) -> str:
    commit, of_project = ((made_by or "").removesuffix("+") for made_by in (record.code.commit, record.code.project))
    if of_project:
        remedy = f"check out the project's commit that made it (git worktree add ../then {of_project})"
    elif not project.current().root.is_relative_to(settings.CHECKOUT):
        remedy = f"take the project as it was on {record.created_at[:10]}"
    elif commit:
        remedy = f"check out the commit that made it (git worktree add ../then {commit})"
    else:
        remedy = f"take the code that made it (version {record.code.version})"
    return f"To rebuild it, {remedy} and rebuild there; for the features as they are now, create another training set"


def _join(
    labels: pa.Table, service: Service, releases: tuple[Release, ...], knowledge_time: bool, say: Say
) -> pa.Table:
    features = (
        joining.join_by_knowledge(labels, service, releases, say)
        if knowledge_time
        else joining.join_at_release(labels, service, releases[0])
    )
    if features.num_rows != labels.num_rows:
        raise TrainingSetError(
            f"{labels.num_rows:,} labels gave {features.num_rows:,} rows. This is a defect in features/training: please"
            " report it"
        )
    return pa.table({name: side[name] for side in (labels, features) for name in side.column_names})


def _keep(
    name: str,
    labels: pa.Table,
    data: pa.Table,
    service: Service,
    release: Release,
    used: tuple[Release, ...],
    *,
    knowledge_time: bool,
    seed: int | None,
    beyond: int = 0,
) -> Manifest:
    """Write labels, then the table, then the manifest, after checking that all versions still exist: a vacuum keeps
    them from then on.
    """
    digests, file = columns.digests(data), columns.parquet(data)
    record = Manifest(
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        service=service.name,
        release=release.number,
        knowledge_time=knowledge_time,
        seed=seed,
        rows=data.num_rows,
        labels={column: digests[column] for column in labels.column_names},
        features=tuple(
            Feature(column, feature.ref, data[column].null_count, digests[column])
            for column, feature in service.columns.items()
        ),
        releases=used,
        definitions=service.definitions,
        code=code.current(),
        data=Data(columns.table_digest(digests), hashlib.sha256(file).hexdigest()),
        horizon=release.horizon,
        beyond_horizon=beyond,
    )
    storage.write_whole(manifest.labels_path(name), columns.parquet(labels))
    _put(name, file, data)
    with _lock("release"):
        availability.ensure_available(record.versions, f"training set {name}")
        manifest.write(record)
    return record


def _put(name: str, file: bytes, data: pa.Table) -> None:
    """Write the table in one data file and two commits, replacing what is there."""
    path = manifest.table_path(name)
    storage.remove_tree(path)
    storage.make_folder(path)
    storage.write_whole(path / FILE, file)
    table = DeltaTable.create(
        str(path),
        schema=data.schema,
        name=name,
        description=f"Training set {name}; its manifest is {manifest.folder() / name}.json",
    )
    statistics = json.dumps({"numRecords": data.num_rows})
    table.create_write_transaction(
        [AddAction(FILE, len(file), {}, int(time.time() * 1000), True, statistics)], "append", table.schema()
    )
    for commit in storage.tree(path / "_delta_log", ".json"):
        storage.sync(commit)
    storage.sync(path / "_delta_log")


def _stored(name: str) -> pa.Table | None:
    """The table's rows in order; None when it cannot be read."""
    try:
        table: pa.Table = DeltaTable(str(manifest.table_path(name))).to_pyarrow_table()
    except (DeltaError, OSError, pa.ArrowException):
        return None
    return columns.plain(table)


def _matches_manifest(record: Manifest, data: pa.Table) -> bool:
    return columns.table_digest(columns.digests(data)) == record.data.digest


def _labels(record: Manifest) -> pa.Table:
    path = manifest.labels_path(record.name)
    content = storage.read(path)
    labels = columns.plain(pq.read_table(io.BytesIO(content))) if content else None
    if labels is None or columns.digests(labels) != record.labels:
        raise TrainingSetError(
            f"the labels of training set {record.name} at {path} were lost or altered. Restore the file from a copy; it"
            " cannot be rebuilt without them"
        )
    return labels


def _ensure_same_values(record: Manifest, digests: dict[str, str]) -> None:
    expected = {**record.labels, **{feature.name: feature.digest for feature in record.features}}
    odd = [name for name in expected if digests.get(name) != expected[name]]
    if odd:
        now = code.current()
        raise TrainingSetError(
            f"training set {record.name} cannot be rebuilt: {', '.join(odd)} came out different, from the same labels,"
            f" versions and definitions. It was made by {_list_facts(asdict(record.code))}, and this is"
            f" {_list_facts(asdict(now))}. {_rebuild_hint(record)}"
        )


def _list_facts(facts: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {value or 'unknown'}" for name, value in facts.items())


@contextmanager
def _lock(name: str) -> Iterator[None]:
    path: Path = settings.lake() / "_locks" / f"{name}.lock"
    try:
        with storage.locked(path, LOCK_SECONDS):
            yield
    except LockedError:
        raise TrainingSetError(
            f"another process has held the lock {name} for {LOCK_SECONDS} s. Wait for it to end, or end it, then try"
            " again"
        ) from None
