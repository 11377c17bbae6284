"""What RAPIDS says of a plan is counted as it is meant."""

from bench.gpu_plan import PlanCoverage, page

TOLD = """
*Exec <ProjectExec> will run on GPU
  *Expression <Alias> a AS b will run on GPU
  #Exec <WindowGroupLimitExec> could run on GPU but is going to be removed because redundant Final WindowGroupLimit
    !Exec <SortExec> cannot run on GPU because not all expressions can be replaced
      !Expression <ScalaUDF> f(a) cannot run on GPU because neither f provides a GPU implementation
    @Exec <FilterExec> could run on GPU
    *Exec <FileSourceScanExec> will run on GPU
"""


def test_operators_that_run_or_stay_are_counted_and_those_that_vanish_are_not() -> None:
    coverage = PlanCoverage("silver.visits")
    coverage.add(TOLD)
    assert (coverage.operators, coverage.on_gpu) == (3, 2)
    assert coverage.reasons == ["ScalaUDF: neither f provides a GPU implementation"]


def test_the_page_names_each_reason_once_with_all_it_concerns() -> None:
    result = [
        PlanCoverage("one", 3, 2, ["ScalaUDF: no"]),
        PlanCoverage("other", 1, 0, ["ScalaUDF: no"]),
        PlanCoverage("third", 2, 2),
    ]
    message = page(result)
    assert "| one | 3 | 2 | 67% |" in message
    assert "- ScalaUDF: no (one, other)" in message
    assert "Nothing stays on the CPU" in page(result[2:])
