"""Lineage: contracts and run reports -> OpenLineage events, as JSON lines in `$MILLRACE_HOME/lineage` or to a server.

Tasks call `record`; `events` and `facets` build events (pure functions), `emit` delivers them, `naming` names datasets
and jobs. Reports are defined in `contracts.report`.
"""
