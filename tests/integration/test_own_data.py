"""docs/projects.md, from a CSV to a served feature: its commands, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lake import settings

PAGE = settings.CHECKOUT / "docs" / "projects.md"


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    (tmp_path / "work").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "AWS_"))}
    environment = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MILLRACE_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "webshop: 6 tables, no problem" in done.stdout
    assert re.search(r"gold\.customer_purchases: \d+ values of 2 keys at \d+ midnights compared, 0 differ", done.stdout)
    assert re.search(r"gold\.customer_visits: \d+ values of 2 keys at \d+ midnights compared, 0 differ", done.stdout)
    answer = next(line for line in done.stdout.splitlines() if line.startswith("{'"))
    [promised] = re.findall(r"It prints\s+`(.*?)`\s+and\s+the\s+others", text)
    for value in (
        *promised.split(", "),
        "'customer': 'ada@example.com'",
        "'spend_7d': 13.0",
        "'last_purchase_at': datetime.datetime(2024, 5, 2, 23, 59, 59",
    ):
        assert value in answer
