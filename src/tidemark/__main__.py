"""`python -m tidemark` is the command line."""

from tidemark.apps.cli import main

main(prog_name="tidemark")
