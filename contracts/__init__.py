"""WHAT each table promises: columns, keys, checks, references, PII, freshness, owner.

Facts with several readers are declared once, in frozen Python objects. Great Expectations suites, Delta schemas and
comments, lineage facets and Feast schemas are derived from them at run time. Logic that moves rows belongs elsewhere,
and no other package of Millrace is imported.
"""
