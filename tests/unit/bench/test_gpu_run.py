"""The comparison of a GPU with the CPU, tried with stand-ins: what it runs, what it calls a failure, what it writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_plan, gpu_run, parity
from bench.gpu_run import Comparison
from bench.parity import EngineRun, TableParity
from contracts import catalog
from etl.spark import gpu, jars, server

SAME = TableParity("gold.a", {"cpu": 1, "gpu": 1}, {"cpu": "x", "gpu": "x"})
OTHER = TableParity("gold.b", {"cpu": 1, "gpu": 1}, {"cpu": "x", "gpu": "y"}, ["only gpu has {'a': '2'}"])


def took(engine: str, seconds: float, *, on_gpu: bool) -> EngineRun:
    return EngineRun(engine, "4.1.1", 8.0, seconds, 1.0, 100, on_gpu)


def runs(*, on_gpu: bool = True) -> list[EngineRun]:
    return [took("cpu", 40.0, on_gpu=False), took("gpu", 10.0, on_gpu=on_gpu)]


def test_equal_tables_and_a_gpu_at_work_are_no_problem() -> None:
    result = Comparison(runs(), [SAME])
    message = gpu_run.section("NVIDIA L4", result)
    assert result.problems == []
    assert "## Run on NVIDIA L4" in message
    assert "Every table is equal, row by row." in message
    assert "| gpu | 10.0 s | 1.00 s | 8.0 s | yes |" in message
    assert "gpu took 0.25 times as long as cpu." in message


def test_a_table_that_differs_is_one() -> None:
    result = Comparison(runs(), [SAME, OTHER])
    assert result.problems == ["gold.b differs: only gpu has {'a': '2'}"]
    assert "IT FAILED" in gpu_run.section("NVIDIA L4", result)


def test_a_gpu_that_took_no_part_is_one() -> None:
    assert Comparison(runs(on_gpu=False), [SAME]).problems == [
        "no plan of gpu names an operator of the GPU: RAPIDS took no part"
    ]


def nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "name"),
    [("echo NVIDIA L4; echo NVIDIA L4", "NVIDIA L4"), ("echo NVIDIA-SMI has failed; exit 9", ""), ("true", "")],
    ids=["two", "no driver", "none"],
)
def test_the_driver_says_whether_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str
) -> None:
    nvidia_smi(tmp_path, script, monkeypatch)
    assert gpu_run.gpu() == name


def test_without_the_tool_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_run.gpu() == ""
    assert gpu_plan.run_on_gpu(tmp_path) == ("", [])


def test_with_one_the_job_runs_on_the_cpu_and_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "echo NVIDIA L4", monkeypatch)
    seen: list[tuple[str, Any]] = []

    def one_run(_home: Path, name: str, *_: Any) -> EngineRun:
        seen.append((name, _[-1]["MILLRACE_SPARK_PROFILE"]))
        return took(name, 10.0, on_gpu=name == "gpu")

    monkeypatch.setattr(parity, "land", lambda _: None)
    monkeypatch.setattr(parity, "one_run", one_run)
    monkeypatch.setattr(parity, "compared", lambda *_: OTHER)
    message, problems = gpu_plan.run_on_gpu(tmp_path)
    assert seen == [("cpu", "cpu"), ("gpu", "gpu")]
    assert len(problems) == len(catalog.tables())
    assert "IT FAILED" in message


def test_a_local_spark_asks_for_no_gpu_that_nobody_hands_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for it for ever; a cluster's master has one to give."""
    monkeypatch.setattr(jars, "fetched", lambda expected: [Path(jar.file) for jar in expected])
    monkeypatch.setenv("MILLRACE_SPARK_PROFILE", "gpu")
    requested = {name for name in gpu.PROFILE if ".resource." in name}
    assert requested == {"spark.executor.resource.gpu.amount", "spark.task.resource.gpu.amount"}
    assert not requested & {*server.settings_of(1, "local[*]")}
    assert {*gpu.PROFILE} <= {*server.settings_of(1, "spark://host:7077")}
    assert server.settings_of(1, "local[*]")["spark.plugins"] == "com.nvidia.spark.SQLPlugin"
