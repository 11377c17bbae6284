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
    """Run the server and return its exit status. Workers share metrics in files, which start at zero."""
    setproctitle("millrace features")
    try:
        secret_files.load()
        chosen, port = options.read(), settings.features_port()
        if chosen.writes and os.environ.get(token.SETTING):
            token.ensure_usable()
    except (secret_files.SecretError, settings.SettingError, WritesDisabledError) as error:
        print(error, file=sys.stderr)
        return 2
    folder = settings.home() / "run" / "metrics" / f"{machine()}-{port}"  # of this server: others may share the home
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"):  # one is prometheus-client's, one Feast's
        os.environ[name] = str(folder)
    from features.serving import workers  # which reads these variables on import

    def make() -> object:
        from features.serving.app import app

        return app(chosen)

    try:
        return workers.run(make, port, chosen.workers)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("contracts", "lake", "features"):
            raise  # a defect
        print(error, file=sys.stderr)  # our own messages are complete, such as a wrong password of the registry
        return 1


if __name__ == "__main__":
    sys.exit(main())
