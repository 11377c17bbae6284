"""The steps of a run: build one table, from plan to published version; make a release; load the online store.

Airflow's tasks and the command line call the same functions. Functions import heavy modules themselves, so that parsing
a DAG file stays cheap.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import catalog, project
from contracts.interval import DAY, Interval, IntervalError
from contracts.model import ContractError, Layer, Load, Table
from contracts.project import ProjectError
from contracts.report import PUBLISHED, UNCHANGED, CheckResult, Pulled, RowAccount, TableReport
from lake import bucket, release, settings, storage
from lake.bucket import StorageError
from millrace import errors, memory

if TYPE_CHECKING:
    import pyarrow as pa

    from contracts.check import Problem
    from etl.arrivals import Outstanding
    from etl.planning import Plan
    from etl.sources.messages import Message
    from etl.sources.offsets import Start
    from etl.staged import Staged
    from expectations.audit import Audit
    from expectations.brute_force import Verification
    from features.offline.profiles import Profile
    from features.online.consistency import Consistency
    from lake.release import Release
    from lineage.record import Artifact, Parent


class RunError(RuntimeError):
    """A step failed for a reason outside Millrace: the engine, the file system, a missing file. The published table is
    intact.
    """


BUILD_ROUNDS = 3
RELEASE_ROUNDS = 5
"""How often a release brings outdated tables up to date before it gives up."""
LONGEST_WAIT = 30.0
"""Seconds that a run waits for files that still change, before it looks for what it carries."""
WORKERS = 2
"""Tables that one process builds at a time."""


MISSING_COLUMN = re.compile(r"attribute ObjectName\(\[(.*)\]\) is missing from the schema")
IDENTIFIER = re.compile(r'Identifier\("([^"]*)"\)')
"""How Sail names a column that is not there."""


class ReleaseBusyError(RuntimeError):
    """Other runs kept publishing, so the tables never matched each other's versions."""


class DocsError(RuntimeError):
    """The Data Docs could not be rendered; published tables are intact."""


@dataclass
class Clock:
    """Seconds spent in each of the named phases."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the `with` block, and add its seconds to that phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - started, 3)


def check_interval(start: str | None, end: str | None, *, scheduled: bool = False) -> Interval:
    """Return the interval of a run, once it is known that this version may write the lake and that files have landed.

    IntervalError for an interval outside the landed files. A scheduled run may lie after the newest file: windows decay
    on days without events.
    """
    from etl import table_reader
    from etl.sources import landing

    interval = Interval.parse(start, end)
    table_reader.check_format()
    streamed = _streamed_days()
    known = landing.coverage(catalog.tables(Layer.BRONZE), streamed)
    last = known.end + (catalog.longest_window() + 1) * DAY
    if not scheduled and (interval.start < known.start or interval.start >= last or interval.end > last):
        what = "files and messages have come" if streamed else "files have landed"
        raise IntervalError(
            f"{interval} lies outside the data: {what} for {known}, and windows are empty from {last} on."
            f" Give start and end within [{known.start}, {last})"
        )
    return interval


def outstanding() -> Outstanding:
    """What no run has carried on, once files have stopped changing, or after LONGEST_WAIT: what still changes
    then starts the next run.
    """
    from etl.arrivals import Watcher

    watcher, started = Watcher(settings.events_seconds()), time.monotonic()
    while True:
        now = time.monotonic()
        found = watcher.look(now)
        if not (found.changing or found.young) or now - started > LONGEST_WAIT:
            return found
        time.sleep(settings.events_seconds() / 4)


def pulled_tables() -> tuple[Table, ...]:
    """The bronze tables whose rows are pulled from a database."""
    return tuple(table for table in catalog.tables(Layer.BRONZE) if table.database)


def pull(name: str, interval: Interval | None = None) -> Pulled:
    """Land the rows of a table's database that its bronze table lacks, under today, for all runs that include it.

    For the run of an interval that ends before tomorrow, under the interval's last day: a run at midnight carries what
    was written until then. IntervalError where it ends before today, since the rows are those of now.
    """
    from etl.sources import database

    today = datetime.now(UTC).date()
    if interval and interval.end < today:
        raise IntervalError(f"{interval} ends before today, {today}, and a database has the rows of now")
    with translate_errors(name, "pull again"):
        return database.pull(catalog.table(name), min(today, interval.end - DAY) if interval else today)


def pull_all(interval: Interval, say: Callable[[Any], None] = lambda _: None) -> None:
    """Pull all tables that have a database, for the run of an interval; none for one that ends before today."""
    if interval.end >= datetime.now(UTC).date():
        for table in pulled_tables():
            say(pull(table.qualified, interval))


def _streamed_days() -> list[Interval]:
    """From the first to the last day of each bronze table that has a topic and rows."""
    from lake import delta

    streamed = [table for table in catalog.tables(Layer.BRONZE) if table.topic]
    opened = [(table, delta.open_table(table.qualified)) for table in streamed]
    return [span for table, published in opened if published and (span := delta.extent(published, table))]


def project_problems(services: bool = True) -> list[Problem]:
    """Problems of the current project: in its contracts and transforms or, if those are valid, in its feature services.

    Checking services imports Feast, which takes seconds: a run that serves nothing skips it.
    """
    from contracts import check

    problems = check.problems(project.current())
    if services and not problems:
        from features import views

        problems = [check.Problem(project.current().file("services"), 1, message) for message in views.problems()]
    return problems


def ensure_project(services: bool = True) -> None:
    """Raise a ProjectError that names every problem of the project, before a run starts."""
    if problems := project_problems(services):
        raise ProjectError(f"the project {project.current().name} cannot run: " + "; ".join(map(str, problems)))


def verify(name: str, sample: int, seed: int = 0) -> Verification:
    """Recount a feature table's values at random keys and midnights from its declaration alone, and compare them with
    the newest release's rows.

    Where a transform prepares the events, the project's `oracles.py` has a function with the table's name that does the
    same in SQL: it takes DuckDB's connection and the name of a view of the events, and returns them with the prepared
    columns.
    """
    import duckdb

    from expectations import brute_force

    table, pinned = catalog.table(name), release.read()
    missing = [required for required in (*table.inputs, name) if required not in pinned.tables]
    if missing:
        raise RunError(
            f"{name} cannot be verified: {', '.join(missing)} is not in release {pinned.number}. Run an interval first:"
            " millrace run"
        )
    oracles = project.module("oracles")
    needs_oracle = bool(table.aggregates and table.aggregates.needs_transform)
    prepare = getattr(oracles, table.name, None) if needs_oracle else None
    if needs_oracle and prepare is None:
        path = project.current().file("oracles")
        raise RunError(
            f"{name} has events that a transform prepares. Write them once more in SQL, as {table.name}(connection,"
            f" events) in {path}"
        )
    try:
        return brute_force.verify(table, pinned.tables, sample, seed, prepare, values=partial(_values, table, pinned))
    except duckdb.Error as error:
        message = str(error).splitlines()[0].rstrip(".")
        raise RunError(
            f"{name} cannot be verified: {message}. If its declaration changed since release {pinned.number}, run an"
            " interval first: millrace run"
        ) from error


def _values(table: Table, pinned: Release, samples: Sequence[Any]) -> Mapping[Any, dict[str, Any]]:
    """The values of a table of instants, as a training set has them."""
    from features.instants import values

    return values.at(table, pinned, samples)


def run_table(name: str, interval: Interval, run_id: str, parent: Parent | None = None) -> TableReport:
    """Build one table for the interval: plan, stage, audit and publish, recorded as lineage.

    A table that is up to date gives a report with the status `unchanged`.
    """
    from etl import arrivals
    from etl.planning import plan
    from etl.stage import stage

    table = catalog.table(name)
    with translate_errors(name):
        landed = arrivals.landed(table, interval) if table.layer == Layer.BRONZE else {}
        report = _build_current(lambda: _build(table, interval, lambda: plan(table, interval), stage, run_id, parent))
        if landed:
            arrivals.record(table, landed)
        return report


def _build_current(build: Callable[[], TableReport]) -> TableReport:
    """Build a table, once more where others, such as the lake writer, wrote a checkpoint of an input after the plan:
    Sail cannot read the planned version then (see `delta.checkpoint_older`).
    """
    for _ in range(BUILD_ROUNDS - 1):
        try:
            return build()
        except Exception as error:
            if "Missing commit file" not in str(error):
                raise
    return build()


def _build(
    table: Table,
    interval: Interval,
    plan: Callable[[], Plan],
    stage: Callable[[Plan], Staged],
    run_id: str,
    parent: Parent | None,
    artifacts: tuple[Artifact, ...] = (),
) -> TableReport:
    """Plan, stage, audit and publish under the table's lock. `artifacts` are inputs other than tables, for lineage."""
    from etl import engine, table_reader
    from lake.publishing import locked
    from lineage.record import Engine, recorded

    with locked(table.qualified), table_reader.holding_files(table.qualified):
        planned = plan()
        if planned.nothing_to_do:
            return _unchanged(planned)
        with recorded(
            table, interval, planned.inputs, artifacts=artifacts, parent=parent, engine=Engine(*engine.describe())
        ) as recording:
            report = _execute(planned, stage, run_id, on_checks=lambda checks: setattr(recording, "checks", checks))
            recording.report = report
            return report


def append_messages(
    table: Table, batch: Sequence[Message], run_id: str, identity: int, starts: Mapping[int, Start]
) -> TableReport:
    """Publish the messages of a topic that the bronze table has not read yet, with their offsets, in one commit.

    `identity` is that of the topic, `starts` where the table ended when they were read.
    """
    from etl.stage import stage_messages

    return _append(table, run_id, lambda planned: stage_messages(planned, batch, identity, starts))


def append_offsets(
    table: Table,
    run_id: str,
    identify: Callable[[], int],
    starts: Mapping[int, Start],
    ends: Mapping[int, int],
) -> TableReport:
    """As `append_messages`, for the messages of a topic from `starts` to `ends`, which the engine's cluster reads.

    `identify` returns the topic's identity.
    """
    from etl.stage import stage_offsets

    return _append(table, run_id, lambda planned: stage_offsets(planned, identify, starts, ends))


def _append(table: Table, run_id: str, stage: Callable[[Plan], Staged]) -> TableReport:
    """Stage messages under the table's lock, and publish them."""
    from etl import table_reader
    from etl.planning import plan
    from lake.publishing import locked

    today = datetime.now(UTC).date()
    with (
        translate_errors(table.qualified, "the messages are read again"),
        locked(table.qualified),
        table_reader.holding_files(table.qualified),
    ):
        planned = plan(table, Interval(today, today + DAY))
        return _execute(planned, stage, run_id, on_checks=lambda _: None)


def pass_gaps(table: Table, identity: int, gaps: Mapping[int, tuple[int, int]], run_id: str) -> dict[int, int]:
    """Commit that there are no messages from one offset to another, for the partitions that the table has read up to
    the first. Returns their next offsets.
    """
    from etl.sources import offsets
    from lake.publishing import locked

    with translate_errors(table.qualified, "the messages are read again"), locked(table.qualified):
        read = offsets.next_offsets(table, [*gaps])
        following = {partition: end for partition, (at, end) in gaps.items() if read[partition] == at}
        _commit_offsets(table, identity, following, run_id)
        return following


def skip_messages(table: Table, identity: int, ranges: Mapping[int, tuple[int, int]], run_id: str) -> dict[int, int]:
    """Let the table read on where the messages that it reads next are gone. `ranges` has the first and the end offset
    of each partition. Returns the partitions that are now read from their first message, with its offset.

    A topic of another identity than the one that the table has read is read from its beginning.
    """
    from etl.sources import offsets
    from lake.publishing import locked

    with translate_errors(table.qualified, "skip again"), locked(table.qualified):
        is_another = offsets.is_another(table, identity)
        following = dict.fromkeys(ranges) if is_another else offsets.next_offsets(table, [*ranges])
        skipped = {
            partition: first
            for partition, (first, end) in ranges.items()
            if (at := following[partition]) is None or not first <= at <= end
        }
        _commit_offsets(table, identity, skipped, run_id)
        return skipped


def _commit_offsets(table: Table, identity: int, following: Mapping[int, int], run_id: str) -> None:
    """Commit next offsets without rows; nothing where there are none. The caller holds the table's lock."""
    from etl.sources import messages, offsets
    from lake import delta, publishing
    from lake.commits.delta_rs import maintenance_metadata

    if following:
        transactions = offsets.transactions(messages.topic_of(table), identity, following)
        metadata = maintenance_metadata(delta.last_commit(delta.open_table(table.qualified)), run_id)
        base = delta.version_of(table.qualified)
        publishing.publish(table, [], metadata, base=base, transactions=transactions)


def add_part(
    table: Table,
    release: Release,
    part: Mapping[str, Any],
    rows: Callable[[], tuple[pa.Table, int]],
    run_id: str,
    parent: Parent | None = None,
    artifacts: tuple[Artifact, ...] = (),
) -> TableReport:
    """Publish one part of a table that is computed from a release: the rows whose columns have the values in `part`.

    `rows` returns these rows and how many it was to compute. It is called only if the table does not have the part yet;
    otherwise the report says `unchanged`. `artifacts` are inputs other than tables, for lineage.
    """
    from etl.planning import plan_part
    from etl.stage import stage_rows

    horizon = date.fromisoformat(release.horizon)
    inputs = {name: release.tables[name] for name in table.inputs}
    ids = {name: release.ids.get(name, "") for name in inputs}
    interval = Interval(horizon, horizon + DAY)
    with translate_errors(table.qualified, "run it again"):
        return _build(
            table,
            interval,
            lambda: plan_part(table, interval, part, inputs, ids),
            lambda planned: stage_rows(planned, *rows()),
            run_id,
            parent,
            artifacts,
        )


@contextmanager
def translate_errors(name: str, retry: str = "run the interval again") -> Iterator[None]:
    """Turn an error of another library, or of storage, into a RunError with a remedy; Millrace's own errors pass."""
    try:
        yield
    except Exception as error:
        if errors.is_ours(error) and not isinstance(error, StorageError):
            raise
        message = next(iter(str(error).splitlines()), "").rstrip(".")
        if failure := _engine_failure(error):
            remedy = (
                f"Start the engine again, then {retry}. If it ends again, it may lack memory. {memory.remedy('engine')}"
            )
            raise RunError(f"{name}: the run failed ({failure}). Published tables are intact. {remedy}") from error
        if storage_explanation := _storage_explanation(error):
            reason, remedy = storage_explanation
            raise RunError(
                f"{name}: the run failed ({reason}). Published tables are intact. {remedy}, then {retry}"
            ) from error
        explanation = errors.explain(error, settings.lake)
        reason, remedy = explanation or _origin(name, error, message)
        raise RunError(
            f"{name}: the run failed ({reason}). Published tables are intact. {remedy}, then {retry}"
        ) from error


def _origin(name: str, error: Exception, message: str) -> tuple[str, str]:
    """Reason and remedy of an error that nothing explains: the line of the project that raised it.

    The engine evaluates a transform's rows after the transform has returned. The table's transform is named then, or
    its contract if it has none.
    """
    reason = f"{type(error).__name__}: {message}"
    if match := MISSING_COLUMN.search(str(error)):
        reason = f"there is no column {'.'.join(IDENTIFIER.findall(match[1]))}"
    raised = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in raised if "site-packages" not in frame.filename] or raised
    with suppress(ProjectError, ContractError, LookupError):
        root = project.current().root
        if own := [frame for frame in frames if Path(frame.filename).is_relative_to(root)]:
            return reason, f"{own[-1].filename}:{own[-1].lineno} raised it. Correct that"
        table = catalog.table(name)
        file = project.current().file(f"transforms.{table.layer}.{table.name}")
        if file.exists():
            return reason, f"It was raised as the rows of {file} were computed. Correct that"
        contract = project.current().file(f"contracts.{table.layer}.{table.name}")
        if type(error).__module__.startswith("pyspark.errors") and contract.exists():
            return reason, f"It was raised as the expressions of {contract} were computed. Correct those"
    return reason, f"{frames[-1].filename}:{frames[-1].lineno} raised it. Correct that"


@contextmanager
def _translate_machine_errors(name: str) -> Iterator[None]:
    """Turn an error of this machine, such as a full disk, into a RunError; any other error passes."""
    try:
        yield
    except Exception as error:
        explanation = None if errors.is_ours(error) else errors.explain(error)
        if explanation is None:
            raise
        raise RunError(
            f"{name}: {explanation.reason}. Published tables and served features are intact. {explanation.remedy}, then"
            " serve again"
        ) from error


def _storage_explanation(error: Exception) -> tuple[str, str] | None:
    """Reason and remedy of an object store's error; None for any other error."""
    if isinstance(error, StorageError):
        return error.reason, error.remedy
    return bucket.explain(str(error)) if storage.is_remote(settings.lake()) else None


def _engine_failure(error: Exception) -> str:
    """How the engine was lost, if this error comes from its client; empty otherwise."""
    from etl import engine

    return engine.lost(str(error)) if type(error).__module__.split(".")[0] in ("pyspark", "grpc") else ""


def _execute(
    planned: Plan, stage: Callable[[Plan], Staged], run_id: str, on_checks: Callable[[tuple[CheckResult, ...]], None]
) -> TableReport:
    from etl import quarantine

    clock = Clock()
    with clock.phase("stage"):
        staged = stage(planned)
    try:
        if (
            planned.table.layer == Layer.BRONZE
            and not (staged.files or staged.transactions)
            and planned.base is not None
        ):
            return _unchanged(planned)
        with clock.phase("audit"):
            verdict = _audit(staged, run_id)
            on_checks(verdict.checks)
            if not staged.transactions:  # a poison message never stops its stream
                verdict.stop_if_critical(staged.rows, len(staged.rejected))
        with clock.phase("publish"):
            expected = RowAccount(
                staged.rows_in,
                staged.rows - verdict.bad_rows,
                verdict.bad_rows + len(staged.rejected),
                staged.duplicates,
            )
            expected.verify(planned.table.qualified)
            quarantine_version, quarantined = quarantine.replace(staged, verdict.bad, run_id)
            if verdict.good is not None:
                staged.keep(verdict.good)
            account = RowAccount(staged.rows_in, staged.rows, quarantined, staged.duplicates)
            account.verify(planned.table.qualified)
            version = _publish(staged, account, run_id) if _changes(staged) else planned.base or 0
        return _report(staged, verdict, account, version, quarantine_version, clock)
    finally:
        staged.discard()


def _changes(staged: Staged) -> bool:
    """Whether there is something to commit. Landed files without new rows, such as copies, do not change bronze."""
    return staged.plan.base is None or not staged.plan.appends or staged.rows > 0 or bool(staged.transactions)


def _audit(staged: Staged, run_id: str) -> Audit:
    from expectations import docs
    from expectations.audit import audit
    from expectations.suite import Facts

    table = staged.table
    references = {reference.name: _read_published(reference.to) for reference in table.references}
    facts = Facts(staged.distinct_keys, staged.rows_in - staged.duplicates - len(staged.rejected))
    verdict = audit(table, staged.frame(), references, facts)
    docs.keep(verdict, run_id)
    return verdict


def _read_published(name: str):  # type: ignore[no-untyped-def]
    from etl import table_reader
    from etl.transforms import StageError
    from lake import delta

    version = delta.version_of(name)
    if version is None:
        raise StageError(
            f"{name} is referred to and was never published. Run the DAG from the bronze layer on, or look why {name}"
            " failed"
        )
    return table_reader.read(name, version)


def _publish(staged: Staged, account: RowAccount, run_id: str) -> int:
    from dataclasses import asdict

    from etl.commits import committer
    from lake import publishing
    from lake.delta import CommitMetadata

    planned = staged.plan
    metadata = CommitMetadata(
        run_id, planned.inputs, staged.changed_days, planned.horizon, planned.code, asdict(account), planned.ids
    )
    if staged.transactions:
        return publishing.publish(
            planned.table, staged.paths(), metadata, base=planned.base, transactions=staged.transactions
        )
    whole = planned.whole or (not planned.appends and planned.table.load == Load.SNAPSHOT)
    replace = () if planned.appends else planned.days
    return committer().publish(planned.table, staged.paths(), metadata, base=planned.base, replace=replace, whole=whole)


def _unchanged(planned: Plan) -> TableReport:
    """The report of a table that is up to date, with the row account of its last commit."""
    account = RowAccount(**planned.last.account) if planned.last and planned.last.account else RowAccount(0, 0, 0, 0)
    rows, size = _size(planned.table)
    return TableReport(
        planned.table.qualified,
        UNCHANGED,
        planned.base or 0,
        account,
        inputs=planned.inputs,
        total_rows=rows,
        total_bytes=size,
    )


def _report(
    staged: Staged, verdict: Audit, account: RowAccount, version: int, quarantine_version: int | None, clock: Clock
) -> TableReport:
    rows, size = _size(staged.table)
    return TableReport(
        table=staged.table.qualified,
        status=UNCHANGED if version == staged.plan.base and not account.rows_in else PUBLISHED,
        version=version,
        account=account,
        seconds=clock.seconds,
        checks=verdict.checks,
        inputs=staged.plan.inputs,
        files=tuple(staged.files),
        quarantine_version=quarantine_version,
        total_rows=rows,
        total_bytes=size,
    )


def _size(table: Table) -> tuple[int, int]:
    """Rows and bytes of the whole table, from the Delta log."""
    from lake import delta

    opened = delta.open_table(table.qualified)
    return delta.size(opened, settings.table_path(table.qualified)) if opened else (0, 0)


def make_release(interval: Interval, run_id: str, parent: Parent | None = None) -> release.Release:
    """Pin the current versions of the silver and gold tables as a release, once each was built from the others' pinned
    versions.

    If another run has published a table in the meantime, the tables built from it are rebuilt first, so that no release
    mixes two states. Bronze tables are in no release, and a stream may go on all the time: what comes to them after the
    first rebuild waits for the next release. ReleaseBusyError if other runs keep publishing.
    """
    from lake.publishing import locked

    with translate_errors("release"), locked("release"):
        for attempt in range(RELEASE_ROUNDS):
            plans = [
                _planned(table, interval) for layer in (Layer.SILVER, Layer.GOLD) for table in catalog.tables(layer)
            ]
            versions = {planned.table.qualified: planned.base or 0 for planned in plans}
            unfinished = [planned for planned in plans if not planned.nothing_to_do]
            outdated = [planned for planned in unfinished if not attempt or not _lacks_bronze_only(planned, versions)]
            if not outdated and _are_consistent(plans, versions):
                return _pin(versions, interval)
            for planned in outdated or unfinished:
                run_table(planned.table.qualified, interval, run_id, parent)
    raise ReleaseBusyError(
        "other runs keep publishing tables while this one tries to make a release. Run the interval again when they"
        " have ended"
    )


def _planned(table: Table, interval: Interval) -> Plan:
    from etl.planning import plan
    from etl.transforms import StageError

    planned = plan(table, interval)
    if planned.base is None:
        raise StageError(f"no release: {table.qualified} was never published. Run the DAG and look why it failed")
    return planned


def _lacks_bronze_only(planned: Plan, versions: dict[str, int]) -> bool:
    """Whether a table is that of the `versions` about to be pinned, and of an older version of a bronze table."""
    last = planned.last
    if last is None or (last.code, last.ids, last.horizon) != (planned.code, planned.ids, planned.horizon):
        return False
    return all(last.inputs.get(name) == versions[name] for name in planned.inputs if name in versions)


def _are_consistent(plans: list[Plan], versions: dict[str, int]) -> bool:
    """Whether every table is built from the versions of the others that are about to be pinned, and those from the same
    bronze table from one version of it.
    """
    read = {**versions}
    built = (planned.inputs if planned.nothing_to_do or not planned.last else planned.last.inputs for planned in plans)
    return all(read.setdefault(name, version) == version for inputs in built for name, version in inputs.items())


def _pin(versions: dict[str, int], interval: Interval) -> release.Release:
    from lake import delta

    horizons = [str(interval.end), *([release.read().horizon] if release.numbers() else [])]
    return release.write(versions, max(horizons), {name: delta.id_of(name) for name in sorted(versions)})


def run_all(
    start: str | None, end: str | None, run_id: str, say: Callable[[Any], None] = lambda _: None
) -> list[TableReport]:
    """Run what the DAG runs in this process, without Airflow. Returns the reports in the order of the catalog.

    `say` gets what was pulled from databases, each report as its table ends, then the release. Tables start as soon as
    their inputs are published, WORKERS at a time. After the first error no other table starts; running ones end and are
    reported before it is raised.
    """
    pull_all(Interval.parse(start, end), say)
    interval = check_interval(start, end)
    waiting = sorted(catalog.tables(), key=lambda table: (-len(_downstream(table)), -len(table.inputs)))
    running: dict[Future[TableReport], str] = {}
    reports: dict[str, TableReport] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(WORKERS) as pool:
        while running or (waiting and failure is None):
            ready = [] if failure else [table for table in waiting if set(needs(table)) <= set(reports)]
            for table in ready[: WORKERS - len(running)]:
                waiting.remove(table)
                running[pool.submit(run_table, table.qualified, interval, run_id)] = table.qualified
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                if error := future.exception():
                    failure = failure or error
                    continue
                reports[name] = future.result()
                say(reports[name])
    if failure:
        raise failure
    say(make_release(interval, run_id))
    return [reports[table.qualified] for table in catalog.tables()]


def _downstream(table: Table) -> set[str]:
    """The tables that depend on this one, directly or not. Tables with the most of them start first, as in Airflow."""
    direct = [candidate for candidate in catalog.tables() if table.qualified in needs(candidate)]
    return {dependent.qualified for dependent in direct}.union(*(_downstream(dependent) for dependent in direct))


def needs(table: Table) -> tuple[str, ...]:
    """The tables that must be published before this one."""
    return tuple(sorted({*table.inputs, *(reference.to for reference in table.references)}))


def serve(number: int | None = None, parent: Parent | None = None, *, fresh: bool = False) -> dict[str, Any]:
    """Load a release (the newest by default) into the online store, and record each feature view as lineage. Readers
    switch to all of it at once.

    Every declared feature table is served: SourceError, before anything changes, if the release lacks one. Tables that
    the project no longer declares have no view and are skipped. `fresh` loads every row, even of a release that is
    online already.
    """
    from contextlib import ExitStack

    from features.online.materialize import ensure_tables, materialize
    from lineage.record import Engine, Served, recorded_view

    newest = release.read(number)
    ensure_tables(newest, (table.qualified for table in catalog.tables(Layer.GOLD)))
    with _translate_machine_errors(f"release {newest.number}, to be served"), ExitStack() as stack:
        recordings = {
            table.name: stack.enter_context(
                recorded_view(
                    table,
                    version=newest.tables[table.qualified],
                    release=newest.number,
                    parent=parent,
                    engine=Engine(*_duckdb()),
                )
            )
            for table in catalog.tables(Layer.GOLD)
        }
        result = materialize(newest, fresh=fresh)
        for view in result.views:
            if recording := recordings.get(view.view):  # a view that services.py defines itself has no gold table
                recording.served = Served(generation=view.generation, rows=view.rows)
    return {
        "release": newest.number,
        "horizon": newest.horizon,
        "views": [view.to_dict() for view in result.views],
        "consistency": result.consistency.to_dict() if result.consistency else None,
    }


def consistency(sample: int | None) -> Consistency:
    """Compare served features with the values that a training set would hold.

    `sample` is the number of entities to take from each view and side (online and offline); None compares all.
    """
    from features.online.consistency import online

    return online(sample)


def stream_consistency(sample: int | None) -> Consistency:
    """Compare what is served of a stream with the newest release, before that is served.

    `sample` is the number of entities to take from each view; None compares all.
    """
    from features.online.consistency import stream

    return stream(sample)


@dataclass(frozen=True)
class TableProfile:
    """The profile of one version of a table. `by` is the library that computed it: `duckdb` or `cudf`."""

    table: str
    version: int
    by: str
    profile: Profile

    def to_dict(self) -> dict[str, Any]:
        """The profile as values that JSON can hold."""
        return {"table": self.table, "version": self.version, "by": self.by, **self.profile.to_dict()}


def render_docs() -> str:
    """Render the Data Docs of the newest runs and return their index page.

    DocsError, with the remedy, if that fails; tables and releases do not depend on the pages.
    """
    from expectations import docs

    try:
        return str(docs.render())
    except Exception as error:
        explanation = errors.explain(error) or errors.Explanation(
            f"{type(error).__name__}: {error}", "Look into the cause"
        )
        raise DocsError(
            f"the Data Docs were not rendered ({explanation.reason}). Tables and releases are not affected, and the"
            f" former pages stay. {explanation.remedy}: the next run renders them"
        ) from error


def profile(name: str, version: int | None = None, by: str | None = None) -> TableProfile:
    """Profile the columns of a published table, at its newest version or at an older one.

    `by` is the library that counts, `duckdb` or `cudf`; `MILLRACE_JOIN` chooses by default.
    """
    from features import lake_reader
    from features.offline import frames, profiles

    reader, library = lake_reader.published(name, version), frames.choose(by, settings.COUNTS)
    return TableProfile(name, reader.release.tables[name], library, profiles.of(reader, name, library))


def _duckdb() -> tuple[str, str]:
    from importlib.metadata import version

    return "duckdb", version("duckdb")


def published_size(table: Table) -> tuple[int | None, int, int]:
    """Version, rows and bytes of a published table; the version is None if it was never published."""
    from lake import delta

    return delta.version_of(table.qualified), *_size(table)
