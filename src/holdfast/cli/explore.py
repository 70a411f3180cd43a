"""``holdfast explore``."""

from typing import Annotated

import typer

from holdfast.cli.options import DataName, Device, Root


def explore(  # noqa: PLR0917
    models: Annotated[list[str], typer.Argument(help="Run folders, zoo:NAME or other models, attacked side by side.")],
    port: Annotated[int, typer.Option(help="Of the page; 0 takes a free one.")] = 8777,
    host: Annotated[str, typer.Option(help="Where to listen; by default for this machine only.")] = "127.0.0.1",
    data: DataName = None,
    root: Root = None,
    max_images: Annotated[int | None, typer.Option(help="So many test images only, evenly taken.")] = None,
    index: Annotated[
        str | None, typer.Option(help="Search the gallery by a faiss index, such as SQ8 or IVF256,PQ32:nprobe=16.")
    ] = None,
    device: Device = None,
) -> None:
    """Serve a page on which you pick an image, attack it, and watch what each model finds."""
    from holdfast.util.extras import require  # noqa: PLC0415

    for module in ("starlette", "uvicorn"):
        require(module, "serve")
    from holdfast.explorer.scene import open_scene  # noqa: PLC0415
    from holdfast.explorer.serving import address_of, listen, serve  # noqa: PLC0415

    with listen(host, port) as listener:
        if not address_of(listener)[1]:
            typer.echo(f"holdfast: whoever reaches {host} can use this page: it asks for no password", err=True)
        with open_scene(models, data=data, root=root, images=max_images, index=index, device=device) as scene:
            serve(scene, listener)
