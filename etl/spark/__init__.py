"""A Spark Connect server on this machine: find Java, fetch jars, start it. `etl.engine` chooses the engine."""


class SparkError(RuntimeError):
    """Spark cannot be started or reached; the message says what to do."""
