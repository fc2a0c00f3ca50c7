"""The command line: parsing and printing only. Nothing on the path of `--help` or of a typo imports torch."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from partwise.config import UserError

app = typer.Typer(
    name="partwise",
    help="Train vision models that know where, from labels of whole images or from none.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

PARSING_ERROR: type[Exception] = next(k for k in typer.BadParameter.__mro__ if k.__name__ == "ClickException")
"""What the parser raises for a wrong word: click's, or that of the click inside newer versions of typer."""

NO_FAULT_OF_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOMEM}

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a field of the recipe; repeatable.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|FILE.yaml", help="A name from `partwise recipes`, or a YAML file.")
    ],
    data: Annotated[str | None, typer.Option(metavar="SOURCE", help="kind:PATH?key=value")] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder; default runs/<recipe>.")] = None,
    settings: Settings = None,
    grid: Annotated[
        list[str] | None, typer.Option(metavar="A.B=1,2,3", help="A study over these values; repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="A study over so many seeds.")] = 1,
    folds: Annotated[int, typer.Option(min=0, help="A study over so many folds, cut by group.")] = 0,
    devices: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Parameters, memory and hours; writes nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what is in the run folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe; the same command continues an unfinished run."""
    from partwise.engine.study import plan
    from partwise.methods.recipes import resolve

    # A typo is answered before torch is imported.
    found, _ = resolve(recipe, data=data, settings=settings or [])
    plan(found, grid or [], seeds=seeds, folds=folds)
    from partwise import api

    if dry_run:
        from partwise.estimating import estimate

        _table(estimate(recipe, data=data, settings=settings or []))
        return
    api.train(
        recipe,
        data=data,
        out=out,
        settings=settings or [],
        grid=grid or [],
        seeds=seeds,
        folds=folds,
        devices=devices,
        fresh=fresh,
        quiet=quiet,
    )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    on: Annotated[str | None, typer.Option(metavar="SOURCE", help="Another source than the run's.")] = None,
    suite: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Suites to measure; repeatable.")] = None,
    foreign: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Pictures of none of the run's classes, for --suite ood; repeatable."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure a finished run, or the file of a distilled set, again, with other suites or on another source."""
    from partwise.data.sources import parse_source
    from partwise.methods.recipes import check_suites
    from partwise.run import RunFolder

    if run.suffix != ".safetensors":
        RunFolder(run).require()
    check_suites(suite or [])
    for source in [*([on] if on is not None else []), *(foreign or [])]:
        parse_source(source)
    from partwise import api

    found = api.evaluate(run, on=on, suites=suite or [], foreign=foreign or [], quiet=quiet)
    _table({name: f"{value:.4f}" for name, value in found.items()})


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...")],
    out: Annotated[Path, typer.Option(metavar="DIR")] = Path("predictions"),
    quiet: Quiet = False,
) -> None:
    """Labels, heatmaps and boxes of pictures and folders of pictures."""
    from partwise.run import RunFolder

    RunFolder(run).require()
    from partwise import api

    made = api.predict(run, list(paths), out=out, quiet=quiet)
    aside = f", {len(made.faults)} set aside" if made.faults else ""
    typer.echo(f"{made.count} pictures{aside}: {' and '.join(str(made.out / name) for name in made.shown)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    to: Annotated[str, typer.Option(metavar="LIBRARY", help="timm, torchvision or smp.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: RUN/LIBRARY.safetensors.")] = None,
) -> None:
    """The backbone of a run under the names of another library, as safetensors."""
    from partwise.run import RunFolder

    RunFolder(run).require()
    from partwise import api

    typer.echo(api.export(run, to=to, out=out))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    out: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
) -> None:
    """One self-contained HTML page; several runs side by side."""
    from partwise.run import RunFolder

    for run in runs:
        RunFolder(run).require(or_study=True)
    from partwise import api

    typer.echo(api.report(list(runs), out=out))


@app.command()
def data(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="kind:PATH?key=value")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also as an HTML page with a contact sheet.")] = None,
) -> None:
    """Check and describe a data set: counts, sizes, faults."""
    from partwise.data.sources import parse_source

    parse_source(source)
    from partwise import api

    checked = api.data(source, out=out)
    for line in checked.lines():
        typer.echo(line)
    if out is not None:
        typer.echo(f"page: {out}")


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(metavar="NAME")] = None) -> None:
    """List the recipes, or show one: paper, fields, expected numbers, minutes."""
    from partwise.methods.recipes import all_books, find_recipe

    if name is None:
        for book in all_books().values():
            width = max(len(recipe) for recipe in book.makers)
            for recipe in book.makers:
                typer.echo(f"{recipe:<{width}}  {book.contract(recipe).splitlines()[0]}")
        return
    found, book = find_recipe(name)
    from partwise.config import to_yaml

    typer.echo(f"{name}\n\n{book.contract(name)}\n\n{book.paper.title} ({book.paper.year}), {book.paper.link}")
    for claim in book.paper.claims:
        if claim.recipe == name:
            note = f" ({claim.note})" if claim.note else ""
            typer.echo(f"  {claim.metric} on {claim.data}: {claim.value:.4f}, {claim.table}{note}")
    typer.echo(f"\n{to_yaml(found)}")


@app.command()
def doctor() -> None:
    """Versions, devices, optional parts, write access."""
    from partwise import api

    _table(api.doctor())


def _table(rows: dict[str, Any]) -> None:
    width = max((len(name) for name in rows), default=0)
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit status 0 done, 1 our fault, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    sys.exit(_status(words, debug))


def _status(words: list[str], debug: bool) -> int:
    try:
        command = typer.main.get_command(app)
        # Not through app(): typer's own way in has other exit statuses.
        with command.make_context("partwise", list(words) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code if words else 2
    except PARSING_ERROR as error:
        return _complain(error.format_message(), debug)  # type: ignore[attr-defined]  # known by its name alone
    except UserError as error:
        return _complain(str(error), debug)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _other(error, debug)
    return 0


def _other(error: Exception, debug: bool) -> int:
    """An interruption, what the system refused, or a fault of ours."""
    if type(error).__name__ == "Interrupted":
        if os.environ.get("RANK", "0") == "0":
            typer.echo("partwise: interrupted; the state is saved, the same command continues", err=True)
        return 130
    if type(error).__name__ == "NonFiniteLoss":
        return _complain(str(error), debug)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_FAULT_OF_OURS):
        reason = (error.strerror or str(error)).lower()
        return _complain(f"{error.filename}: {reason}" if error.filename is not None else reason, debug)
    traceback.print_exc()
    typer.echo("partwise: this is a fault of partwise, not yours; please report the lines above", err=True)
    return 1


def _complain(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"partwise: error: {message}", err=True)
    return 2


if __name__ == "__main__":
    main()
