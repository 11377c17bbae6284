"""The command line that mirrors the DAG: `python -m dags --help`."""

import sys

from dags.cli import main

sys.exit(main())
