"""`python -m features.serving`: the feature server on `MILLRACE_FEATURES_PORT`, until SIGTERM."""

from __future__ import annotations

import os
import shutil
import sys

from setproctitle import setproctitle

from contracts import settings
from features.serving import options

PORT = "6566"


def main() -> int:
    """Serve; the exit status. Metrics are in files that the workers share, and begin at zero with each start."""
    setproctitle("millrace features")
    try:
        chosen = options.read()
    except options.ServingOptionError as error:
        print(error, file=sys.stderr)
        return 2
    folder = settings.home() / "run" / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"):  # one is prometheus-client's, one Feast's
        os.environ[name] = str(folder)
    from features.serving import workers  # which looks at these variables when it is imported

    port = int(os.environ.get("MILLRACE_FEATURES_PORT") or PORT)

    def make() -> object:
        from features.serving.app import app

        return app(chosen)

    return workers.run(make, port, chosen.workers)


if __name__ == "__main__":
    sys.exit(main())
