"""Reproducible training sets: `create`, `read`, `rebuild`, and `check_leaks`, which counts values that were not known
at label time.
"""

from features.offline.labels import BeyondHorizonError
from features.training.availability import VersionGoneError
from features.training.label_input import from_request
from features.training.leaks import LeakReport, check_labels, check_leaks
from features.training.services import ServiceError
from features.training.sets import DefinitionsChangedError, RebuildResult, TrainingSetError, create, read, rebuild

__all__ = [
    "BeyondHorizonError",
    "DefinitionsChangedError",
    "LeakReport",
    "RebuildResult",
    "ServiceError",
    "TrainingSetError",
    "VersionGoneError",
    "check_labels",
    "check_leaks",
    "create",
    "from_request",
    "read",
    "rebuild",
]
