"""Training sets that can be made again: `create`, `read`, `rebuild`, and `check_leaks`, which says what could not be
known at label time.
"""

from features.offline.labels import BeyondHorizonError
from features.training.availability import VersionGoneError
from features.training.label_input import from_request
from features.training.leaks import Leaks, check_labels, check_leaks
from features.training.services import ServiceError
from features.training.sets import DefinitionsChangedError, Rebuilt, TrainingSetError, create, read, rebuild

__all__ = [
    "BeyondHorizonError",
    "DefinitionsChangedError",
    "Leaks",
    "Rebuilt",
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
