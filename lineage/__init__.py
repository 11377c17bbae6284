"""Lineage: contract and run report -> OpenLineage events, one JSON a line in `$MILLRACE_HOME/lineage`, or sent to a
server.

`record` is what a task calls, `events` and `facets` build (pure), `emit` delivers, `naming` says what a dataset is
called everywhere. What a report contains is decided in `contracts.report`; when a run starts and ends is known to
`millrace`.
"""
