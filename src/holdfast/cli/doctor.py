"""``holdfast doctor``."""

import typer


def doctor() -> None:
    """What this machine has: versions, devices, extras, and whether a training step works."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.cli.machine import examine  # noqa: PLC0415

    findings = examine()
    rows = [[finding.what, "ok" if finding.ok else "no", finding.detail] for finding in findings]
    display.table("doctor", ["", "", ""], rows)
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)
