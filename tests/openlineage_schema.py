"""Is this an OpenLineage event? Judge one against JSON Schemas: the event itself, then each facet against its own
schema, formats included.

Where the schemas come from:
- the spec: derived from the classes of the installed client, which the OpenLineage project generates from the spec's
  JSON Schemas. Set `MILLRACE_OPENLINEAGE_SPEC` to the `spec` folder of an OpenLineage checkout to judge by the original
  documents instead.
- Airflow's facets: the JSON Schemas in the provider package.
- ours: `lineage/*.json`.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import types
import typing
from collections.abc import Collection, Iterator
from datetime import datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attr
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client import generated
from referencing import Registry, Resource
from referencing.exceptions import NoSuchResource, Unresolvable
from referencing.jsonschema import DRAFT202012

CORE = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
CHECKOUT = Path(__file__).resolve().parent.parent
ALWAYS_WRITTEN = {"_producer", "_schemaURL", "producer", "schemaURL"}
"""Required by the spec, but with a default in the client's classes."""

PLACES = {"facets": "DatasetFacet", "inputFacets": "InputDatasetFacet", "outputFacets": "OutputDatasetFacet"}
KEYS = {
    "DatasetVersion": "version",
    "InputSubset": "subset",
    "OutputSubset": "subset",
    "ProcessingEngine": "processing_engine",
}
"""Facets whose key is not simply their class's name; the client's classes do not tell the key."""

SUFFIX = re.compile(r"(Input|Output)?(Dataset|Job|Run)Facet$")
AIRFLOW_FACETS = {
    ("run", "airflow"): "AirflowRunFacet",
    ("run", "airflowDagRun"): "AirflowDagRunFacet",
    ("run", "airflowState"): "AirflowStateRunFacet",
    ("run", "debug"): "AirflowDebugRunFacet",
    ("job", "airflow"): "AirflowJobFacet",
}
"""The provider gives its facets the spec's base facet as `_schemaURL`, so they are known by their key."""


STALE_IN_AIRFLOW = {
    ("$.dag", "'start_date' is a required property"),
    ("$.taskInstance", "'pool' is a required property"),
    ("$.task.retry_exponential_backoff", "0 is not of type 'boolean'"),
}
"""Where provider 2.20.3 breaks its own schemas on Airflow 3.3: they still describe Airflow 2. Nothing else is
forgiven.
"""


class NotOpenLineage(ValueError):  # noqa: N818
    """The event breaks the spec; the message lists where."""


def validate(event: dict[str, Any]) -> None:
    """Raise NotOpenLineage unless the event and each of its facets follow their schemas."""
    found = list(problems(event))
    if found:
        raise NotOpenLineage("\n".join(found))


def problems(event: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with an event, one line each."""
    yield from _broken(event, f"{CORE}#/$defs/RunEvent", "event")
    for place, base, key, facet in _facets(event):
        where = f"{place}.{key}"
        if not isinstance(facet, dict):
            yield f"{where}: not an object"
            continue
        yield from _broken(facet, f"{CORE}#/$defs/{base}", where)
        yield from _against_own_schema(facet, place, base, key)


def _facets(event: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Place, base facet, key and facet of each."""
    for place, base in (("run", "RunFacet"), ("job", "JobFacet")):
        for key, facet in event.get(place, {}).get("facets", {}).items():
            yield place, base, key, facet
    for side in ("inputs", "outputs"):
        for number, dataset in enumerate(event.get(side, [])):
            for group, base in PLACES.items():
                for key, facet in dataset.get(group, {}).items():
                    yield f"{side}[{number}].{group}", base, key, facet


def _against_own_schema(facet: dict[str, Any], place: str, base: str, key: str) -> Iterator[str]:
    where = f"{place}.{key}"
    if (place, key) in AIRFLOW_FACETS:
        name = AIRFLOW_FACETS[place, key]
        yield from _broken(facet, f"airflow:{name}.json#/$defs/{name}", where, STALE_IN_AIRFLOW)
        return
    url = facet.get("_schemaURL", "")
    if url == f"{CORE}#/$defs/{base}":
        return
    if not url.startswith(("https://openlineage.io/", "urn:millrace:")):
        return
    yield from _broken(facet, url, where)
    yield from _misplaced(url, base, key, where)


def _misplaced(url: str, base: str, key: str, where: str) -> Iterator[str]:
    document, _, pointer = url.partition("#")
    name = pointer.rpartition("/")[2]
    try:
        declared = _registry().contents(document).get("properties", {})
        definition = _registry().resolver().lookup(url).contents
    except (NoSuchResource, Unresolvable):
        return
    expected = next(iter(declared), None) or KEYS.get(SUFFIX.sub("", name)) or SUFFIX.sub("", name)
    if expected.lower() != key.lower():
        yield f"{where}: the key of {name} is {expected}"
    bases = {part["$ref"].rpartition("/")[2] for part in definition.get("allOf", []) if "$ref" in part}
    if bases and base not in bases:
        yield f"{where}: {name} is a {' and '.join(sorted(bases))}, and stands where a {base} belongs"


def _broken(instance: Any, url: str, where: str, forgiven: Collection[tuple[str, str]] = ()) -> Iterator[str]:
    try:
        _registry().resolver().lookup(url)
    except (NoSuchResource, Unresolvable):
        yield f"{where}: there is no schema {url}"
        return
    validator = Draft202012Validator({"$ref": url}, registry=_registry(), format_checker=FORMATS)
    for error in validator.iter_errors(instance):
        if (error.json_path, error.message) in forgiven:
            continue
        yield f"{where}{error.json_path.removeprefix('$')}: {error.message[:300]}"


# --- formats

FORMATS = FormatChecker(formats=["uuid"])


@FORMATS.checks("date-time", ValueError)
def _is_date_time(value: Any) -> bool:
    return not isinstance(value, str) or ("T" in value.upper() and datetime.fromisoformat(value).tzinfo is not None)


@FORMATS.checks("uri", ValueError)
def _is_uri(value: Any) -> bool:
    return not isinstance(value, str) or (bool(urlsplit(value).scheme) and re.search(r"[\s<>\"{}|\\^`]", value) is None)


# --- the schemas


@cache
def _registry() -> Registry:
    documents = {**_spec(), **_airflow(), **_ours()}
    return Registry(retrieve=_other_version_of(documents)).with_resources(
        (url, _resource(document)) for url, document in documents.items()
    )


def _resource(document: dict[str, Any]) -> Resource:
    return Resource.from_contents(document, default_specification=DRAFT202012)


def _other_version_of(documents: dict[str, dict[str, Any]]) -> typing.Callable[[str], Resource]:
    """Facets name the version of the core that was current when they were written, such as 1-0-5; bases have not
    changed since.
    """
    core = documents[CORE]

    def retrieve(url: str) -> Resource:
        if re.fullmatch(r"https://openlineage\.io/spec/[0-9-]+/OpenLineage\.json", url):
            return _resource({**core, "$id": url})
        raise NoSuchResource(ref=url)

    return retrieve


def _spec() -> dict[str, dict[str, Any]]:
    folder = os.environ.get("MILLRACE_OPENLINEAGE_SPEC")
    if not folder:
        return derived()
    found = [
        json.loads(path.read_text())
        for path in (Path(folder) / "OpenLineage.json", *sorted((Path(folder) / "facets").glob("*.json")))
    ]
    return {**derived(), **{document["$id"]: document for document in found}}


def _airflow() -> dict[str, dict[str, Any]]:
    folder = Path(importlib.import_module("airflow.providers.openlineage.facets").__file__ or "").parent
    return {f"airflow:{path.name}": json.loads(path.read_text()) for path in folder.glob("*.json")}


def _ours() -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (CHECKOUT / "lineage").glob("*.json")]
    return {document["$id"]: document for document in found}


# --- the client's classes as JSON Schemas


def derived() -> dict[str, dict[str, Any]]:
    """The spec's documents, as far as the client's classes tell: types, what is required, formats, enumerations, and
    each facet's base.
    """
    documents: dict[str, dict[str, Any]] = {}
    for module in pkgutil.iter_modules(generated.__path__, f"{generated.__name__}."):
        for kind in vars(importlib.import_module(module.name)).values():
            if attr.has(kind) and kind.__module__ == module.name and "_get_schema" in vars(kind):
                document, _, name = kind._get_schema().partition("#/$defs/")
                documents.setdefault(document, {"$id": document, "$defs": {}})["$defs"][name] = _schema_of_class(kind)
    return documents


def _schema_of_class(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = attr.fields(kind)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _schema_of_field(field, hints[field.name]) for field in fields},
        "required": [field.name for field in fields if field.default is attr.NOTHING or field.name in ALWAYS_WRITTEN],
    }
    bases = [base for base in kind.__mro__[1:] if "_get_schema" in vars(base)]
    return {**schema, "allOf": [{"$ref": bases[0]._get_schema()}]} if bases else schema


def _schema_of_field(field: attr.Attribute, hint: Any) -> dict[str, Any]:
    schema = _schema_of_type(hint)
    return {**schema, "format": _format_of(field)} if _format_of(field) else schema


def _format_of(field: attr.Attribute) -> str | None:
    """The client checks a format with the parser of that format."""
    names = getattr(getattr(field.validator, "__code__", None), "co_names", ())
    return next(
        (
            name
            for parser, name in (("isoparse", "date-time"), ("UUID", "uuid"), ("urlparse", "uri"))
            if parser in names
        ),
        None,
    )


def _schema_of_type(hint: Any) -> dict[str, Any]:
    simple = {str: "string", int: "integer", float: "number", bool: "boolean"}
    if hint in simple:
        return {"type": simple[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        alternatives = [_schema_of_type(argument) for argument in arguments if argument is not type(None)]
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    if origin is list:
        return {"type": "array", "items": _schema_of_type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of_type(arguments[1])}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    if attr.has(hint):
        return {"$ref": hint._get_schema()} if "_get_schema" in vars(hint) else _schema_of_class(hint)
    return {}
