"""``holdfast explore``."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import Device


def explore(  # noqa: PLR0917
    runs: Annotated[list[str], typer.Argument(help="Run folders; several are attacked side by side.")],
    port: Annotated[int, typer.Option(help="Of the page; 0 takes a free one.")] = 8777,
    host: Annotated[str, typer.Option(help="Where to listen; by default for this machine only.")] = "127.0.0.1",
    root: Annotated[Path | None, typer.Option(help="Where the data set lies now.")] = None,
    images: Annotated[int | None, typer.Option(help="So many test images only, evenly taken.")] = None,
    device: Device = None,
) -> None:
    """Serve a page on which you pick an image, attack it, and watch what each model finds."""
    from holdfast.util.extras import require  # noqa: PLC0415

    for module in ("starlette", "uvicorn"):
        require(module, "serve")
    from holdfast.explorer.scene import opened  # noqa: PLC0415
    from holdfast.explorer.serving import address_of, listen, serve  # noqa: PLC0415

    with listen(host, port) as listener:
        if not address_of(listener)[1]:
            typer.echo(f"holdfast: whoever reaches {host} can use this page: it asks for no password", err=True)
        with opened(runs, root=root, images=images, device=device) as scene:
            serve(scene, listener)
