"""A Spark of our own on this machine: Java found, jars checked, a Connect server started. Which engine computes is
decided in `etl.engine`.
"""


class SparkError(RuntimeError):
    """Spark cannot be started or reached; the message says what to do."""
