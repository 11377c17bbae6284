"""Probe a component on this machine: `health.py COMPONENT [--live]` exits 0 if it is ready, else 1 with the reason.

A container's HEALTHCHECK runs it every few seconds, so it imports only three modules of the standard library.
scripts/venv.sh puts it beside `millrace`, which calls it with `python -I -S`.
"""

import os
import socket
import sys

SECONDS = 8.0
COMPONENTS = (
    "api-server",
    "scheduler",
    "dag-processor",
    "triggerer",
    "features",
    "engine",
    "lake-writer",
    "feature-worker",
    "broker",
)


def _target(component, live):
    """Port and path to request."""
    airflow = int(os.environ.get("MILLRACE_PORT") or 8080)
    if component == "api-server":
        return airflow, "/api/v2/version" if live else "/api/v2/monitor/health"
    path = ("/health" if component == "features" else "/live") if live else "/ready"
    if component == "features":
        return int(os.environ.get("MILLRACE_FEATURES_PORT") or (6566 if airflow == 8080 else airflow % 65535 + 1)), path
    return int(os.environ.get("MILLRACE_HEALTH_PORT") or 8974), path


def _ask(host, port, path):
    """Status and body of the response."""
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body.decode(errors="replace")


def main(arguments):
    """Probe the component, print what is wrong, and return the exit status."""
    live = "--live" in arguments
    names = [name for name in arguments if name != "--live"]
    if len(names) != 1 or names[0] not in COMPONENTS:
        print(f"millrace health COMPONENT [--live], with one of {', '.join(COMPONENTS)}", file=sys.stderr)
        return 2
    host = os.environ.get("MILLRACE_BIND") or "127.0.0.1"
    try:
        port, path = _target(names[0], live)
        status, body = _ask({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, path)
    except (OSError, ValueError, IndexError) as error:
        print(f"{names[0]} does not answer: {error}")
        return 1
    unhealthy = (
        names[0] == "api-server" and not live and '"metadatabase":{"status":"healthy"}' not in "".join(body.split())
    )
    if status == 200 and not unhealthy:
        return 0
    print(f"{names[0]} is not {'alive' if live else 'ready'} ({status}): {' '.join(body.split())[:500]}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
