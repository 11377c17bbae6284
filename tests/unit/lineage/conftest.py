import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own for each test, and no lineage server."""
    for name in (
        "OPENLINEAGE_URL",
        "OPENLINEAGE_DISABLED",
        "OPENLINEAGE_ENDPOINT",
        "OPENLINEAGE_API_KEY",
        "MILLRACE_LAKE",
        "MILLRACE_LANDING",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    return tmp_path.resolve()
