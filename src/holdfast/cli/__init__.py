"""The command line: verbs only. torch is imported when a verb needs it, so that ``--help`` answers at once."""

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli.attack import attack
from holdfast.cli.compare import compare
from holdfast.cli.corrupt import corrupt
from holdfast.cli.doctor import doctor
from holdfast.cli.evaluate import evaluate
from holdfast.cli.explore import explore
from holdfast.cli.export import export
from holdfast.cli.gate import gate
from holdfast.cli.listing import listing
from holdfast.cli.recompute import recompute
from holdfast.cli.report import report
from holdfast.cli.search import embed, search
from holdfast.cli.streams import lost, protect, speaks
from holdfast.cli.sweep import sweep
from holdfast.cli.train import train
from holdfast.cli.verify import verify

VERBS = (
    *(train, evaluate, attack, corrupt, verify, compare, gate, recompute),
    *(report, explore, sweep, embed, search, export, doctor),
)

app = typer.Typer(
    name="holdfast",
    help="Train image-retrieval embeddings that hold fast under attack, and measure how well they do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(listing, name="list")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what the user can mend comes out as one line, with exit status 2."""
    from holdfast.util.errors import HoldfastError, lacks_memory  # noqa: PLC0415
    from holdfast.util.text import Plain  # noqa: PLC0415

    protect()
    try:
        with redirect_stdout(Plain(sys.stdout)):
            app(args=arguments)
    except HoldfastError as error:
        if error.common and not speaks():
            raise SystemExit(2) from None
        _fail(str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        _fail(f"{reason}: {error.filename}" if error.filename else reason)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        _fail(
            f"out of memory ({reason}); try a smaller --batch-size (in training: batch.pairs, data.size or model.dim)"
        )
    finally:
        if full := lost(sys.stdout):
            _fail(f"cannot write to standard output: {full.strerror}")


def _fail(message: str) -> None:
    from holdfast.util.text import plain  # noqa: PLC0415

    typer.echo(f"holdfast: {plain(message)}", err=True)
    raise SystemExit(2)
