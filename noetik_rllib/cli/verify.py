"""``noetik data verify``: whether a dataset is whole and holds what its manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from noetik_rllib.cli.console import out as console
from noetik_rllib.cli.console import progress_bar
from noetik_rllib.cli.types import PATH
from noetik_rllib.errors import UserError


@click.command(
    epilog="Example: noetik data verify data/pure",
)
@click.argument("directory", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(directory: Path, as_json: bool) -> None:
    """Check every file and every row of a dataset against its manifest."""
    from noetik_rllib.offline.findings import MAX_FINDINGS
    from noetik_rllib.offline.verify import verify as verify_dataset

    with progress_bar("verify") as update:
        findings = verify_dataset(directory, update)
    if as_json:
        result = {"dataset": str(directory), "holds": not findings.lines}
        result |= {"checked": dict(findings.checked), "findings": findings.lines}
        click.echo(json.dumps(result, indent=2))
    elif findings.lines:
        click.echo("\n".join(findings.lines))
    else:
        table = Table("check", "looked at", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for check, count in findings.checked.items():
            table.add_row(check, f"{count:,}")
        console.print(table)
        console.print(f"{directory} holds what its manifest says", highlight=False, soft_wrap=True)
    if findings.lines:
        more = " or more" if len(findings.lines) >= MAX_FINDINGS else ""
        raise UserError(
            f"{directory} does not hold what its manifest says: {len(findings.lines)}{more} "
            "finding(s); prepare it again"
        )
