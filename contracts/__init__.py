"""WHAT each table promises: columns, keys, checks, references, PII, freshness, owner.

Facts that several readers need are declared here once, in frozen Python objects. Great Expectations suites, Delta
schemas and comments, lineage facets and Feast schemas are derived from them at run time. No logic that moves rows
belongs here, and nothing of ours is imported.
"""
