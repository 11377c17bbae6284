"""Every kind of event follows the OpenLineage schemas, and the judge is able to say no."""

import copy

import pytest

from tests.openlineage_schema import NotOpenLineage, problems, validate
from tests.unit.lineage import samples


def test_every_kind_of_event_is_open_lineage():
    result = samples.every_kind()

    assert {event["eventType"] for event in result.values()} == {"START", "COMPLETE", "FAIL"}
    assert {name: list(problems(event)) for name, event in result.items() if list(problems(event))} == {}


def _silver():
    return samples.of_table(samples.SILVER)[1]


def _set(path, value):
    def change(event):
        *way, last = path
        for step in way:
            event = event[step]
        event[last] = value

    return change


def _drop(*path):
    def change(event):
        *way, last = path
        for step in way:
            event = event[step]
        del event[last]

    return change


def _move_schema(event):
    event["run"]["facets"]["schema"] = event["outputs"][0]["facets"].pop("schema")


def _rename_version(event):
    event["outputs"][0]["facets"]["datasetVersion"] = event["outputs"][0]["facets"].pop("version")


OUT = ("outputs", 0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_drop("job"), "'job' is a required property"),
        (_set(("run", "runId"), "42"), "is not a 'uuid'"),
        (_set(("eventTime",), "2017-01-01T00:00:00"), "is not a 'date-time'"),
        (_set(("eventType",), "DONE"), "'DONE' is not one of"),
        (_set(("producer",), "no uri"), "is not a 'uri'"),
        (_drop(*OUT, "namespace"), "'namespace' is a required property"),
        (_drop(*OUT, "facets", "schema", "_schemaURL"), "'_schemaURL' is a required property"),
        (_set((*OUT, "facets", "schema", "fields", 0, "name"), 1), "1 is not of type 'string'"),
        (_set((*OUT, "facets", "version", "datasetVersion"), 4), "4 is not of type 'string'"),
        (
            _set((*OUT, "facets", "schema", "_schemaURL"), "https://openlineage.io/spec/facets/9-9-9/NoSuchFacet.json"),
            "there is no schema",
        ),
        (_set((*OUT, "outputFacets", "outputStatistics", "rowCount"), "90"), "'90' is not of type 'integer'"),
        (_drop(*OUT, "outputFacets", "millrace_rowAccount", "duplicates"), "'duplicates' is a required property"),
        (_set((*OUT, "outputFacets", "millrace_rowAccount", "published"), -1), "-1 is less than the minimum"),
        (_drop("run", "facets", "parent", "run", "runId"), "'runId' is a required property"),
        (_move_schema, "stands where a RunFacet belongs"),
        (_rename_version, "the key of DatasetVersionDatasetFacet is version"),
        (
            _set(("run", "facets", "airflow"), {"_producer": "urn:x", "_schemaURL": "urn:y"}),
            "run.airflow: 'dag' is a required property",
        ),
    ],
)
def test_a_broken_event_is_refused(change, complaint):
    event = copy.deepcopy(_silver())
    validate(event)
    change(event)

    with pytest.raises(NotOpenLineage, match=complaint):
        validate(event)
