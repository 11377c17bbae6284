"""Make rendered Data Docs self-contained: pages that load nothing from the internet, and an index of our own.

Great Expectations' pages load styles and scripts from sixteen CDN URLs, and its index needs one of them to draw its
table. `static/` replaces the little that the pages need of Bootstrap and jQuery.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

STATIC = Path(__file__).with_name("static")
ASSETS = ("pages.css", "pages.js")
SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL | re.IGNORECASE)
REMOTE_LINK = re.compile(r"<link\b[^>]*\bhref=[\"'](?:https?:)?//[^>]*>", re.IGNORECASE)
ICON = re.compile(r"<link\b[^>]*\brel=[\"']shortcut icon[^>]*>", re.IGNORECASE)
REMOTE_IMAGE = re.compile(r"<img\b[^>]*\bsrc=[\"'](?:https?:)?//[^>]*>", re.DOTALL | re.IGNORECASE)
REMOTE_URL = re.compile(r"url\(\s*[\"']?(?:https?:)?//[^)]*\)", re.IGNORECASE)
FOOTER = re.compile(r"<footer>.*?</footer>", re.DOTALL | re.IGNORECASE)
TITLE = re.compile(r"<title>\s*</title>", re.IGNORECASE)


@dataclass(frozen=True)
class Result:
    """A stored validation result with its run, table, checks and page."""

    run: str
    moment: str
    table: str
    meta: dict[str, Any]
    statistics: dict[str, Any]
    page: Path


def finish(site: Path, results: Sequence[Result]) -> None:
    """Rewrite all pages of `site`, and write its index, which lists the results by run, newest first."""
    for name in ASSETS:
        shutil.copyfile(STATIC / name, site / "static" / name)
    for page in site.rglob("*.html"):
        page.write_text(without_internet(page.read_text(), "../" * (len(page.relative_to(site).parts) - 1)))
    for style in site.rglob("*.css"):
        style.write_text(REMOTE_URL.sub("none", style.read_text()))
    (site / "index.html").write_text(_index(site, results))


def without_internet(text: str, root: str) -> str:
    """The page without anything that loads from other hosts; links stay. `root` is the relative path to the site's
    root.
    """
    logo = f'<img src="{root}static/images/logo-long.png" alt="Great Expectations" style="height: 50px">'
    text = REMOTE_IMAGE.sub(logo, REMOTE_LINK.sub("", SCRIPT.sub("", text)))
    # GX looks for its icon one folder too high
    text = ICON.sub("", FOOTER.sub("", TITLE.sub("", REMOTE_URL.sub("none", text))))
    assets = (
        f'<link rel="shortcut icon" href="{root}static/images/favicon.ico">'
        f'<link rel="stylesheet" href="{root}static/pages.css"><script defer src="{root}static/pages.js"></script>'
    )
    return text.replace("</head>", f"{assets}\n</head>", 1)


def _index(site: Path, results: Sequence[Result]) -> str:
    runs: dict[str, list[Result]] = {}
    for result in results:
        runs.setdefault(result.run, []).append(result)
    suites = sorted(path.relative_to(site) for path in (site / "expectations").rglob("*.html"))
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="UTF-8"><title>Data Docs of Millrace</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1.0">',
        '<link rel="stylesheet" href="static/pages.css"></head><body><main>',
        "<h1>Data Docs</h1>",
        (
            "<p>The audits of the newest runs. A failed critical check of the whole table publishes nothing;"
            " rows that fail a"
        ),
        "critical check go to quarantine; rows with a warning are published and worth a look.</p>",
        *(_run(site, name, audits) for name, audits in runs.items()),
        "" if runs else "<p>No run has audited a table yet.</p>",
        "<h2>What each table promises</h2><ul>" if suites else "",
        *(f'<li><a href="{_href(suite)}">{".".join(suite.with_suffix("").parts[1:])}</a></li>' for suite in suites),
        "</ul>" if suites else "",
        "</main></body></html>",
    ]
    return "\n".join(parts)


def _run(site: Path, name: str, results: Sequence[Result]) -> str:
    head = '<tr><th>Table</th><th>Result</th><th class="number">Checks</th><th>Failed checks</th></tr>'
    rows = "\n".join(_row(site, result) for result in results)
    return (
        f"<h2>{html.escape(name)}</h2><p"
        f' class="muted">{results[-1].moment}</p><table><thead>{head}</thead><tbody>{rows}</tbody></table>'
    )


def _row(site: Path, result: Result) -> str:
    failed = [check for check in result.meta.get("checks", []) if not check["success"]]
    reasons = "<br>".join(html.escape(_sentence(check)) for check in failed)
    link = f'<a href="{_href(result.page.relative_to(site))}">{html.escape(result.table)}</a>'
    checks = result.statistics.get("evaluated_expectations", "")
    return (
        f'<tr><td>{link}</td><td>{_verdict(result, failed)}</td><td class="number">{checks}</td><td>{reasons}</td></tr>'
    )


def _verdict(result: Result, failed: Sequence[dict[str, Any]]) -> str:
    if not result.statistics.get("unsuccessful_expectations"):
        return '<span class="passed">✔ passed</span>'
    if failed and all(check["severity"] != "critical" for check in failed):
        return f'<span class="warned">⚠ {len(failed)} warning{"s" * (len(failed) > 1)}</span>'
    return '<span class="failed">✘ failed</span>'


def _sentence(check: dict[str, Any]) -> str:
    rows = f": {check['failed']:,} row{'s' * (check['failed'] > 1)}" if check["failed"] else ""
    return f"{check['severity']}: {check['reason']}{rows}"


def _href(path: Path) -> str:
    return quote(path.as_posix())
