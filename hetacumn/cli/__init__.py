"""The `hetacumn` command."""
