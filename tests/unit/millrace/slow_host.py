"""A host in the place of Airflow's, as slow as a test wants: nothing is ready before the file `ready` lies in the home.

`python slow_host.py [crash]`: with `crash` it ends by itself once somebody asks for its health.
"""

import json
import os
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

HOME = Path(os.environ["MILLRACE_HOME"])
DAG = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / "millrace_dag.py"


class Api(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.answer({"access_token": "token"})

    def do_GET(self) -> None:
        if sys.argv[1:] == ["crash"]:
            print("the scheduler has no database", flush=True)
            os._exit(3)
        now = datetime.now(UTC).isoformat()
        missing = (HOME / "missing").read_text() if (HOME / "missing").exists() else "scheduler"
        late = {"status": "healthy" if (HOME / "ready").exists() else None}
        healthy = {"status": "healthy"}
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        health = {name: {**(late if name == missing else healthy), f"latest_{name}_heartbeat": now} for name in parts}
        answers = {
            "/api/v2/monitor/health": health,
            "/api/v2/dags?limit=100": {"dags": [{"fileloc": str(DAG), "last_parsed_time": now}]},
            "/api/v2/importErrors": {"import_errors": []},
        }
        self.answer(answers.get(self.path, {}))

    def answer(self, body: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


for port in (os.environ["MILLRACE_PORT"], os.environ["MILLRACE_FEATURES_PORT"]):
    Thread(target=ThreadingHTTPServer(("127.0.0.1", int(port)), Api).serve_forever, daemon=True).start()
time.sleep(3600)
