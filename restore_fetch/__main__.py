"""`python -m restore_fetch` is `restore-fetch`."""

from restore_fetch.cli.main import run

run()
