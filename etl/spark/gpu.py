"""Spark settings for RAPIDS, which runs as much of a plan as it can on the GPU."""

from __future__ import annotations

from etl.spark.jars import Jar

RAPIDS = (
    Jar(
        "com.nvidia",
        "rapids-4-spark_2.13",
        "26.08.1",
        "d5224e1c07bc881e93829ea341b33a9a7896d1ced7783262b62d027a1e48b1f9",
    ),
)
"""1 GB."""

PROFILE = {
    "spark.plugins": "com.nvidia.spark.SQLPlugin",  # RAPIDS itself: it rewrites physical plans
    "spark.executor.resource.gpu.amount": "1",  # RAPIDS requires one GPU per executor
    # an executor runs up to ten tasks at once; the next setting limits those on the GPU
    "spark.task.resource.gpu.amount": "0.1",
    # two tasks on the GPU at a time: one computes while the other copies; more need more GPU memory
    "spark.rapids.sql.concurrentGpuTasks": "2",
    # host memory that the GPU reads without a copy; unpinned transfers are half as fast
    "spark.rapids.memory.pinnedPool.size": "2g",
    # GPUs want large batches; Spark's 128 MB leave them idle between tasks
    "spark.sql.files.maxPartitionBytes": "512m",
    "spark.rapids.sql.explain": "NOT_ON_GPU",  # the log says what stayed on the CPU, and why
}
"""Sizes are for a GPU of 16 GB and more."""


def settings_for(master: str) -> dict[str, str]:
    """The profile for a master. A local one has no GPU resources, for which tasks would wait forever."""
    return {name: value for name, value in PROFILE.items() if not (master.startswith("local") and ".resource." in name)}


PLAN_ONLY = {
    "spark.plugins": PROFILE["spark.plugins"],
    "spark.rapids.sql.mode": "explainOnly",  # explains which operators would run on a GPU, and runs the plan on the CPU
    "spark.rapids.sql.explain": "ALL",
}
