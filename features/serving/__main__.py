"""`python -m features.serving`: the feature server on `MILLRACE_FEATURES_PORT`, until SIGTERM."""

from __future__ import annotations

import os
import shutil
import sys

from setproctitle import setproctitle

from features.serving import options, token
from features.serving.errors import WritesDisabledError
from lake import secret_files, settings
from lake.files import machine


def main() -> int:
    """Serve; the exit status. Metrics are in files that the workers share, and begin at zero with each start."""
    setproctitle("millrace features")
    try:
        secret_files.load()
        chosen, port = options.read(), settings.features_port()
        if chosen.writes and os.environ.get(token.SETTING):
            token.ensure_usable()
    except (secret_files.SecretError, settings.SettingError, WritesDisabledError) as error:
        print(error, file=sys.stderr)
        return 2
    folder = (
        settings.home() / "run" / "metrics" / f"{machine()}-{port}"
    )  # of this server, not of another one that shares the home
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"):  # one is prometheus-client's, one Feast's
        os.environ[name] = str(folder)
    from features.serving import workers  # which looks at these variables when it is imported

    def make() -> object:
        from features.serving.app import app

        return app(chosen)

    try:
        return workers.run(make, port, chosen.workers)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("contracts", "lake", "features"):
            raise  # a defect
        print(error, file=sys.stderr)  # ours say all: the registry's server that refuses the password, say
        return 1


if __name__ == "__main__":
    sys.exit(main())
