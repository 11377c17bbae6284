"""The profile of a Spark with RAPIDS, which runs what it can of a plan on the GPU."""

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
"""One gigabyte."""

PROFILE = {
    "spark.plugins": "com.nvidia.spark.SQLPlugin",  # the whole of RAPIDS: it rewrites physical plans
    "spark.executor.resource.gpu.amount": "1",  # an executor holds one GPU; RAPIDS knows no other way
    # up to ten tasks of an executor are scheduled at once; how many are on the GPU is the next line's
    "spark.task.resource.gpu.amount": "0.1",
    # two tasks on the GPU at a time: one computes while the other copies; more need more GPU memory
    "spark.rapids.sql.concurrentGpuTasks": "2",
    # host memory that the GPU reads without a copy; unpinned transfers are half as fast
    "spark.rapids.memory.pinnedPool.size": "2g",
    # GPUs want large batches; Spark's 128 MB leave them idle between tasks
    "spark.sql.files.maxPartitionBytes": "512m",
    "spark.rapids.sql.explain": "NOT_ON_GPU",  # the log says what stayed on the CPU, and why
}
"""Each setting with its reason. The sizes are for one GPU of 16 GB and more."""


def settings_for(master: str) -> dict[str, str]:
    """The profile, without the resources that a cluster's master hands out when there is none: a local Spark offers no
    GPU, and tasks that ask for one wait for ever.
    """
    return {name: value for name, value in PROFILE.items() if not (master.startswith("local") and ".resource." in name)}


PLAN_ONLY = {
    "spark.plugins": PROFILE["spark.plugins"],
    "spark.rapids.sql.mode": "explainOnly",  # no GPU is looked for; plans are judged and then run on the CPU
    "spark.rapids.sql.explain": "ALL",
}
