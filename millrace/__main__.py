"""The command line that mirrors the DAG: `python -m millrace --help`."""

import sys

from millrace.cli import main

sys.exit(main())
