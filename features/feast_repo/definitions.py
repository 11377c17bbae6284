"""The Feast objects of the current project: an entity per key, a view per gold table, and what the project's
`services.py` declares.
"""

from features import registry, views

declared = views.declared()
globals().update(declared)  # where Feast looks for them

project = registry.project("millrace", declared.values())
