"""`theus gc`: remove the shared memory that killed processes left behind."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False),
    help="Where to look.  [default: THEUS_SHM_DIR, else /dev/shm]",
)
def gc(dry_run: bool, as_json: bool, folder: str | None) -> None:
    """Remove named shared memory whose owner is dead.

    Only engines with the "named" backend that were killed leave any; the next such engine removes
    it, too. What lives, belongs to another user or was not made by theus is never touched. Exit
    status 1: the folder could not be read, or something in it could not be removed.
    """
    from theus.registry import sweep

    report = sweep(folder, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(report.document()))
    elif report.error is None:
        click.echo(str(report))
    if report.error is not None:
        raise click.ClickException(str(report))
    if any(file.reason == "closed" for file in report.files):
        raise SystemExit(1)
