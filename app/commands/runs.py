"""`headscope runs`: what there is."""

from __future__ import annotations

from app.commands.options import DEFAULT_ROOT, RootOption


def runs(root: RootOption = DEFAULT_ROOT) -> None:
    """List the runs, newest first."""
    from app.terminal import print_line, print_tables
    from app.views.tables import run_table
    from headscope.runs.index import list_runs

    found = list_runs(root)
    if not found:
        print_line(f"No runs in {root}. Make one with: headscope score MODEL")
        return
    print_tables([run_table(found, str(root))])
