"""A Spark Connect server on this machine, shared by all tasks while the services run, or private to a process.

`<home>/run/spark.json` has the process and port of the shared one, and its start time, in case the id is reused.
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
    """The server's settings. `MILLRACE_SPARK_CONF` adds to them: `key=value`, separated by commas."""
    spark_conf = {
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
        "spark.databricks.delta.snapshotPartitions": "1",  # the default of 50 costs a second for a log of ten entries
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if storage.is_remote(settings.lake()):
        spark_conf |= s3_settings()
        spark_conf["spark.jars"] += "".join(f",{path}" for path in jars.fetched(jars.S3))
    if settings.stream_reader() == "spark":
        spark_conf["spark.jars"] += "".join(f",{path}" for path in jars.fetched(jars.KAFKA))
    spark_conf |= _profile(settings.spark_profile(), spark_conf["spark.jars"], master)
    return spark_conf | settings.spark_conf()


def s3_settings() -> dict[str, str]:
    """The settings for `s3://` paths, without credentials: Hadoop's client reads the usual AWS variables."""
    variables = bucket.environment()
    endpoint = variables.get("AWS_ENDPOINT_URL", "")
    options = {
        "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "fs.AbstractFileSystem.s3.impl": "org.apache.hadoop.fs.s3a.S3A",
        "fs.s3a.endpoint.region": variables["AWS_REGION"],
        # Hadoop repeats a request 8 times, and its client each time 5 times, after 200 s of silence
        "fs.s3a.connection.timeout": "60s",
        "fs.s3a.attempts.maximum": "3",
    }
    if endpoint:
        options |= {
            "fs.s3a.endpoint": endpoint,
            "fs.s3a.path.style.access": "true",
            "fs.s3a.connection.ssl.enabled": str(endpoint.startswith("https://")).lower(),
        }
    return {f"spark.hadoop.{name}": value for name, value in options.items()}


def _profile(name: str, spark_jars: str, master: str) -> dict[str, str]:
    if name == "cpu":
        return {}
    return {
        **gpu.settings_for(master),
        "spark.jars": ",".join([spark_jars, *(str(path) for path in jars.fetched(gpu.RAPIDS))]),
    }


def command(port: int) -> list[str]:
    """The server's command line."""
    java.find()
    master = settings.spark_master()
    options = [part for name, value in settings_of(port, master).items() for part in ("--conf", f"{name}={value}")]
    return [str(jars.spark_home() / "bin" / "spark-submit"), "--class", CLASS, *options, "spark-internal"]


def environment() -> dict[str, str]:
    """The environment of Spark's scripts."""
    variables = {
        **os.environ,
        "SPARK_HOME": str(jars.spark_home()),
        "JAVA_HOME": str(java.find().resolve().parent.parent),
        "SPARK_NO_DAEMONIZE": "1",
    }
    if settings.spark_master().startswith("local"):
        variables.setdefault("PYSPARK_PYTHON", sys.executable)
        variables.setdefault("SPARK_LOCAL_IP", LOOPBACK)  # the machine's own address may change, as on a laptop
    if storage.is_remote(settings.lake()) and (bundle := os.environ.get(bucket.BUNDLE)):
        variables["JAVA_TOOL_OPTIONS"] = (
            f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {_trust_options(Path(bundle))}".strip()
        )
    return variables


def _trust_options(bundle: Path) -> str:
    """Java options to trust only the authorities of a PEM file, which is converted to PKCS12 for Java.

    The password is Java's usual one, and protects nothing.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    store, password = settings.home() / "spark" / "authorities.p12", "changeit"
    trusted = [
        pkcs12.PKCS12Certificate(certificate, str(number).encode())
        for number, certificate in enumerate(x509.load_pem_x509_certificates(bundle.read_bytes()))
    ]
    store.parent.mkdir(parents=True, exist_ok=True)
    write_whole(store, pkcs12.serialize_java_truststore(trusted, BestAvailableEncryption(password.encode())))
    options = {"trustStore": f'"{store}"', "trustStoreType": "PKCS12", "trustStorePassword": password}
    return " ".join(f"-Djavax.net.ssl.{name}={value}" for name, value in options.items())


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def url(port: int) -> str:
    """The URL for clients."""
    return f"sc://{LOOPBACK}:{port}"


def record_path() -> Path:
    """The file with the process and port of the shared server."""
    return settings.home() / "run" / "spark.json"


def record(pid: int, port: int) -> None:
    """Record that this process is, or becomes, the shared server of this home."""
    write_whole(
        record_path(), json.dumps({"pid": pid, "port": port, "started": psutil.Process(pid).create_time()}).encode()
    )


def running() -> str | None:
    """The URL of the shared server, if it is running and listening."""
    with suppress(OSError, ValueError, KeyError, TypeError, psutil.Error):
        recorded = json.loads(record_path().read_text())
        if psutil.Process(recorded["pid"]).create_time() == recorded["started"] and listens(recorded["port"]):
            return url(recorded["port"])
    return None


def recorded_port() -> int:
    """The port of the last shared server, running or not; 0 when there was none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(record_path().read_text())["port"])
    return 0


def listens(port: int, host: str = LOOPBACK) -> bool:
    """Whether the port accepts connections."""
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False


def start(log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and wait until it accepts connections. It stops with the caller, or by `stop`."""
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
    """Wait until the server accepts connections; SparkError with the end of its log if it dies or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not listens(port):
        died = process is not None and process.poll() is not None
        if died or time.monotonic() > deadline:
            if process is not None:
                stop(process)
            log_tail = (
                "\n".join(log.read_text(errors="replace").strip().splitlines()[-15:])
                if log.exists()
                else "(nothing was written)"
            )
            raise SparkError(
                f"Spark {'ended while it started' if died else f'did not listen after {START_SECONDS:.0f} s'}. The end"
                f" of {log}:\n{log_tail}"
            )
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server that this process started: its script and its Java process."""
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
    for member in family:
        with suppress(psutil.Error):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for member in alive:
        with suppress(psutil.Error):
            member.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_SECONDS)


def main() -> int:
    """`python -m etl.spark.server PID COMMAND...`: run the command until it ends, or until its parent PID is gone."""
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
