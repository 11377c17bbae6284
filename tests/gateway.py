"""A real S3 server on loopback: the Versity gateway, which serves a folder. Built once into this checkout's home with
Go.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from etl.spark.server import free_port, listens
from tests import patience, programs
from tests.certificates import Pair

VERSION = "v1.8.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"
BUCKET = "lake"
KEYS = {"AWS_ACCESS_KEY_ID": "millrace", "AWS_SECRET_ACCESS_KEY": "only-on-loopback"}


@dataclass
class Gateway:
    """A running server. `folder` holds its buckets as folders, so that a test can look past it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    scheme: str = "http"

    @classmethod
    def start(cls, folder: Path, shown: Pair | None = None) -> Gateway:
        """Serve `folder`, with a bucket in it, and wait until the server listens; over TLS where it has a certificate
        to show.
        """
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)
        port = free_port()
        environment = {
            **os.environ,
            "ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"],
            "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"],
        }
        options = ["--cert", str(shown.certificate), "--key", str(shown.key)] if shown else []
        output = folder.parent / f"gateway-{port}.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [
                    str(programs.built_by_go(MODULE, VERSION)),
                    "--port",
                    f"127.0.0.1:{port}",
                    "--quiet",
                    *options,
                    "posix",
                    str(folder),
                ],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + patience.SECONDS
        while not listens(port):
            died = process.poll() is not None or time.monotonic() > deadline
            assert not died, output.read_text()
            time.sleep(0.05)
        return cls(folder, port, process, "https" if shown else "http")

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client needs; with a port, by way of somebody who listens there."""
        return {**KEYS, "AWS_ENDPOINT_URL": f"{self.scheme}://127.0.0.1:{port or self.port}", "AWS_REGION": "us-east-1"}

    def stop(self) -> None:
        """End it and wait until it is gone."""
        self.process.terminate()
        self.process.wait(timeout=patience.SECONDS)
