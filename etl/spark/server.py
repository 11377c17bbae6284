"""A Spark Connect server on this machine: one for all tasks while the services run, or one for the life of a process.

`<home>/run/spark.json` says where it is. A server is ours only if the process behind that file still is the one that
was started.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from etl.spark import SparkError, gpu, jars, java
from lake import bucket, settings, storage
from lake.files import write_whole

START_SECONDS = 90.0
STOP_SECONDS = 10.0
LOOPBACK = "127.0.0.1"
CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"


def settings_of(port: int, master: str) -> dict[str, str]:
    """What the server is started with. `MILLRACE_SPARK_CONF` adds to it, `key=value` separated by commas."""
    found = {
        "spark.master": master,
        "spark.app.name": "millrace",
        "spark.connect.grpc.binding.address": settings.bind(),
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.host": LOOPBACK,
        "spark.driver.memory": (settings.spark_memory() or f"{max(psutil.virtual_memory().total // 4 >> 20, 2048)}m"),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.warehouse.dir": str(settings.home() / "spark" / "warehouse"),
        "spark.local.dir": str(settings.home() / "spark" / "local"),
        "spark.jars": ",".join(str(path) for path in jars.fetched(jars.DELTA)),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(2 * (os.cpu_count() or 2)),
        "spark.databricks.delta.snapshotPartitions": "1",  # 50 by default: a second of tasks for a log of ten entries
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if storage.is_remote(settings.lake()):
        found |= s3_settings()
        found["spark.jars"] += "".join(f",{path}" for path in jars.fetched(jars.S3))
    found |= _profile(settings.spark_profile(), found["spark.jars"], master)
    return found | settings.spark_conf()


def s3_settings() -> dict[str, str]:
    """How Spark reaches `s3://` paths. Credentials are not among them: Hadoop's client finds them where AWS's own tools
    do, in the environment first.
    """
    known = bucket.environment()
    endpoint = known.get("AWS_ENDPOINT_URL", "")
    found = {
        "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "fs.AbstractFileSystem.s3.impl": "org.apache.hadoop.fs.s3a.S3A",
        "fs.s3a.endpoint.region": known["AWS_REGION"],
    }
    if endpoint:
        found |= {
            "fs.s3a.endpoint": endpoint,
            "fs.s3a.path.style.access": "true",
            "fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https://")).lower(),
        }
    return {f"spark.hadoop.{name}": value for name, value in found.items()}


def _profile(name: str, known: str, master: str) -> dict[str, str]:
    if name == "cpu":
        return {}
    return {
        **gpu.settings_for(master),
        "spark.jars": ",".join([known, *(str(path) for path in jars.fetched(gpu.RAPIDS))]),
    }


def command(port: int) -> list[str]:
    """The server's command line, for a process that is to become it."""
    java.find()
    master = settings.spark_master()
    options = [part for name, value in settings_of(port, master).items() for part in ("--conf", f"{name}={value}")]
    return [str(jars.spark_home() / "bin" / "spark-submit"), "--class", CLASS, *options, "spark-internal"]


def environment() -> dict[str, str]:
    """What Spark's scripts look at."""
    found = {
        **os.environ,
        "SPARK_HOME": str(jars.spark_home()),
        "JAVA_HOME": str(java.find().resolve().parent.parent),
        "SPARK_NO_DAEMONIZE": "1",
    }
    if storage.is_remote(settings.lake()) and (bundle := os.environ.get(bucket.BUNDLE)):
        found["JAVA_TOOL_OPTIONS"] = f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {_trust_options(Path(bundle))}".strip()
    return found


def _trust_options(bundle: Path) -> str:
    """Have Java trust the authorities of a PEM file and no others: it reads a store of its own format only. The
    password is Java's usual one, and protects nothing.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    store, password = settings.home() / "spark" / "authorities.p12", "changeit"
    trusted = [
        pkcs12.PKCS12Certificate(found, str(number).encode())
        for number, found in enumerate(x509.load_pem_x509_certificates(bundle.read_bytes()))
    ]
    store.parent.mkdir(parents=True, exist_ok=True)
    write_whole(store, pkcs12.serialize_java_truststore(trusted, BestAvailableEncryption(password.encode())))
    options = {"trustStore": f'"{store}"', "trustStoreType": "PKCS12", "trustStorePassword": password}
    return " ".join(f"-Djavax.net.ssl.{name}={value}" for name, value in options.items())


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        port: int = one.getsockname()[1]
        return port


def url(port: int) -> str:
    """Where clients connect."""
    return f"sc://{LOOPBACK}:{port}"


def record_path() -> Path:
    """The file that says where the shared server is."""
    return settings.home() / "run" / "spark.json"


def record(pid: int, port: int) -> None:
    """Tell other processes of this home that this process is, or becomes, their server."""
    write_whole(
        record_path(), json.dumps({"pid": pid, "port": port, "started": psutil.Process(pid).create_time()}).encode()
    )


def running() -> str | None:
    """The URL of the shared server, if it lives and listens."""
    with suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
        found = json.loads(record_path().read_text())
        if psutil.Process(found["pid"]).create_time() == found["started"] and listens(found["port"]):
            return url(found["port"])
    return None


def recorded_port() -> int:
    """The port of the shared server, dead or alive; 0 when there was none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(record_path().read_text())["port"])
    return 0


def listens(port: int, host: str = LOOPBACK) -> bool:
    """Whether somebody takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False


def start(log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and wait until it takes connections. The caller ends it, and it ends by itself when the caller is
    gone.
    """
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    watched = [sys.executable, "-m", "etl.spark.server", str(os.getpid()), *command(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            watched,
            cwd=settings.CHECKOUT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    wait(port, log, process)
    return process, port


def wait(port: int, log: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    """Return once the server takes connections; SparkError with the end of its log if it dies or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not listens(port):
        died = process is not None and process.poll() is not None
        if died or time.monotonic() > deadline:
            if process is not None:
                stop(process)
            told = (
                "\n".join(log.read_text(errors="replace").strip().splitlines()[-15:])
                if log.exists()
                else "(nothing was written)"
            )
            raise SparkError(
                f"Spark {'ended while it started' if died else f'did not listen after {START_SECONDS:.0f} s'}. The end"
                f" of {log}:\n{told}"
            )
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that this process started: the script and the Java below it."""
    family = []
    with suppress(psutil.Error):
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
    for one in family:
        with suppress(psutil.Error):
            one.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for one in alive:
        with suppress(psutil.Error):
            one.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_SECONDS)


def main() -> int:
    """`python -m etl.spark.server PID COMMAND...`: run the command until it ends, or until the process PID, which
    started this one, is gone.
    """
    owner = int(sys.argv[1])
    process = subprocess.Popen(sys.argv[2:])
    while process.poll() is None:
        if os.getppid() != owner:
            stop(process)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    return process.returncode or 0


if __name__ == "__main__":
    sys.exit(main())
