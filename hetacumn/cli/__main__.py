"""``python -m hetacumn.cli`` is the `hetacumn` command."""

from hetacumn.cli.main import run_command

run_command()
