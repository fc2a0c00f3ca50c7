"""Every verb of the command line as one function of the same name: `partwise train ...` is `partwise.train(...)`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from partwise.config import Recipe, UserError, differences, override, to_yaml
from partwise.data.checks import check_headers, check_source
from partwise.data.loading import PictureData
from partwise.data.sample import Source
from partwise.data.sources import open_source
from partwise.engine import study as studies
from partwise.engine.launch import inside_launcher, launch
from partwise.engine.loop import Interrupted, Job, run_stages
from partwise.engine.runtime import Runtime, catch_signals, environment, finish, start
from partwise.engine.tracking import Progress, Tracker, duration
from partwise.evaluate.embedding import Embedder
from partwise.measure import METHOD_PICTURES, check_measurable, measure, merge_metrics, store_pictures
from partwise.methods.base import CaseNamer, DataFacts, Method
from partwise.methods.recipes import find_recipe, load_recipe, resolve
from partwise.methods.table import find_method
from partwise.methods.trained import TrainedRun, load_trained, load_whole, save_trained
from partwise.models.encoders import load_encoder
from partwise.models.exports import export_tensors
from partwise.ops import draws
from partwise.report.page import write_page
from partwise.report.study_page import write_study_page
from partwise.run import RunFolder, write_atomically

if TYPE_CHECKING:
    from partwise.data.checks import DataReport

__all__ = ["data", "doctor", "evaluate", "export", "load", "predict", "report", "train"]


def train(
    recipe: str | Recipe,
    *,
    data: str | None = None,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    grid: Sequence[str] = (),
    seeds: int = 1,
    folds: int = 0,
    devices: int = 1,
    fresh: bool = False,
    quiet: bool = False,
) -> Path:
    """Train a recipe, or a study of it, and write its report; the same call continues an unfinished run.

    Returns the run's folder. Raises UserError for a mistake of the user's and `Interrupted` after SIGINT or SIGTERM, when
    the state is saved.
    """
    found, _ = resolve(recipe, data=data, settings=settings)
    folder = Path(out) if out is not None else Path("runs") / found.recipe
    if grid or seeds > 1 or folds:
        return _study(found, folder, grid=grid, seeds=seeds, folds=folds, devices=devices, fresh=fresh, quiet=quiet)
    if devices > 1 and not inside_launcher():
        return _launched(found, folder, devices=devices, fresh=fresh, quiet=quiet)
    return _run(found, RunFolder(folder), fresh=fresh, quiet=quiet)


def _launched(recipe: Recipe, folder: Path, *, devices: int, fresh: bool, quiet: bool) -> Path:
    """The run in several processes; what is wrong with the recipe or the data is said before they start."""
    open_source(recipe.data.source)
    if fresh:
        with RunFolder(folder).lock():
            RunFolder(folder).clear()
    request = folder / "launch.yaml"
    write_atomically(request, to_yaml(recipe).encode())
    status = launch(devices, ["train", str(request), "--out", str(folder), *(["--quiet"] if quiet else [])])
    request.unlink(missing_ok=True)
    if status == 130:
        raise Interrupted
    if status:
        raise SystemExit(status)
    return folder


def _study(
    recipe: Recipe, folder: Path, *, grid: Sequence[str], seeds: int, folds: int, devices: int, fresh: bool, quiet: bool
) -> Path:
    """Every cell in turn, then mean and spread; a cell that is finished is left alone."""
    axes, made = studies.plan(recipe, grid, seeds=seeds, folds=folds)
    summaries: dict[str, dict[str, Any]] = {}
    for number, cell in enumerate(made, 1):
        if not quiet:
            Progress().say(f"study: {number} of {len(made)}: {cell.name}")
        train(override(recipe, cell.settings), out=folder / cell.name, devices=devices, fresh=fresh, quiet=quiet)
        summaries[cell.name] = RunFolder(folder / cell.name).read_summary()
        summary = studies.summarise(recipe.recipe, axes, made, summaries)
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
    write_study_page(summary, [folder / cell.name for cell in made], folder / "report.html")
    return folder


def _proceeds(recipe: Recipe, folder: RunFolder, *, fresh: bool) -> bool:
    """Whether there is something to do: False where this very run is finished. Another recipe's run is refused."""
    if fresh or not folder.exists():
        return True
    stored, _ = load_recipe(str(folder.recipe))
    changed = differences(stored, recipe)
    if changed:
        shown = "; ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in list(changed.items())[:4])
        raise UserError(
            f"--out {folder.path}: holds a run of another recipe ({shown}); choose another --out, or --fresh"
        )
    return folder.status() != "finished"


def _claim(recipe: Recipe, folder: RunFolder, *, fresh: bool) -> None:
    """Begin the run in its folder: not before everything that can be checked was, so that a mistake costs no `--fresh`."""
    if fresh:
        folder.clear()
    if not folder.exists():
        folder.write_changes(differences(find_recipe(recipe.recipe)[0], recipe))
        write_atomically(folder.recipe, to_yaml(recipe).encode())


def _run(recipe: Recipe, folder: RunFolder, *, fresh: bool, quiet: bool) -> Path:
    """One run from wherever it stands to its report."""
    source = open_source(recipe.data.source)
    runtime = start(recipe.train)
    progress = Progress(quiet=quiet or not runtime.leads)
    with ExitStack() as stack:
        stack.callback(finish, runtime)
        stack.callback(progress.close)
        if runtime.leads:
            stack.enter_context(folder.lock())
            proceed = _proceeds(recipe, folder, fresh=fresh)
        else:
            proceed = False
        if not runtime.agree(proceed):
            if runtime.leads and not folder.report.exists():  # killed between the last number and the page
                write_page([folder.path])
            progress.say(f"{folder.path} is finished; --fresh starts anew")
            return folder.path
        stack.enter_context(catch_signals(runtime.interruption))
        _train_and_measure(recipe, source, folder, runtime, progress, fresh=fresh)
    return folder.path


def _train_and_measure(
    recipe: Recipe, source: Source, folder: RunFolder, runtime: Runtime, progress: Progress, *, fresh: bool
) -> None:
    faults, set_aside = _check(source, recipe)
    pictures = PictureData(source, recipe.data, device=runtime.device, share=runtime.share, set_aside=set_aside)
    try:
        torch.manual_seed(draws.derive(recipe.train.seed, "networks"))
        method = find_method(recipe.method_name)(recipe, DataFacts.of(source))
        method.to(runtime.device)
        check_measurable(method, recipe)
        pictures.prepare()
        method.check(pictures)
        if runtime.leads:
            _claim(recipe, folder, fresh=fresh)
            _note_environment(folder, runtime, source)
        runtime.agree(True)  # all wait until the folder is settled
        progress.say(_headline(recipe, runtime, pictures, method))
        tracker = Tracker(folder, progress, leads=runtime.leads, tensorboard=recipe.train.tensorboard)
        job = Job(recipe, folder, runtime, progress, tracker)
        job.evaluate = _on_schedule(method, pictures, job)
        method.products = job.products
        summary: dict[str, Any] = {"recipe": recipe.recipe, "method": method.name, "status": "running"}
        summary["seed"] = recipe.train.seed
        if runtime.leads:
            folder.write_summary(summary)
        summary["stages"] = run_stages(method.stages(pictures, job), job)
        method.eval()
        measured = measure(method, pictures, recipe, "test", recipe.evaluate.suites, runtime=runtime, progress=progress)
        noted = runtime.gather_notes(pictures.faults)
        if not runtime.leads:
            return
        summary |= {"metrics": measured.metrics, "detail": measured.detail}
        summary["paper"] = _claims(recipe, method)
        summary["faults"] = faults | noted
        save_trained(folder, method)
        measured.store_pictures(folder)
        store_pictures(folder, method.pictures(pictures), first=METHOD_PICTURES)
        folder.write_summary(summary | {"status": "finished"})
        write_page([folder.path])
        progress.close()
        _closing_words(folder, measured.metrics, progress)
    finally:
        pictures.close()


def _check(source: Source, recipe: Recipe) -> tuple[dict[str, str], list[int]]:
    """Headers and labels of everything, before the first step: a fault ends the run by name, or is set aside and counted."""
    faults = [fault for fault in check_headers(source) if fault.serious]
    if faults and recipe.data.on_fault == "stop":
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0].file}: {faults[0].reason}{more}; data.on_fault=skip sets such pictures aside")
    return {fault.file: fault.reason for fault in faults}, [f.index for f in faults if f.index is not None]


def _note_environment(folder: RunFolder, runtime: Runtime, source: Source) -> None:
    """Write environment.json; refuse to continue a run on data that have changed under it."""
    fingerprint = source.fingerprint()
    before = folder.read_environment().get("data", {}).get("fingerprint", fingerprint)
    if before != fingerprint:
        raise UserError(f"data.source {source.name}: has changed since this run began; --fresh starts anew")
    facts = environment(runtime)
    facts["data"] = {"source": source.name, "pictures": len(source), "fingerprint": fingerprint}
    facts["commit"] = commit()
    folder.write_environment(facts)


def commit() -> str | None:
    """The commit of the checkout that the package runs from, with `+` where it was changed; None for an installed package."""
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        name, dirty = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{name}+" if dirty else name


def _headline(recipe: Recipe, runtime: Runtime, pictures: PictureData, method: Method) -> str:
    parameters = sum(p.numel() for network in method.networks().values() for p in network.parameters())
    counts = ", ".join(f"{len(indices):,} {name}" for name, indices in pictures.splits.items())
    return (
        f"{recipe.recipe}: {counts} pictures, {parameters / 1e6:.2f} M parameters, "
        f"{runtime.device.type} in {runtime.precision} ({runtime.reason})"
    )


def _on_schedule(method: Method, pictures: PictureData, job: Job) -> Any:
    """The evaluation on the validation split that the loop calls, or None where there is nothing to measure."""
    suites = job.recipe.evaluate.during
    if not suites or not len(pictures.splits["val"]):
        return None

    def evaluate_now() -> dict[str, float]:
        measured = measure(method, pictures, job.recipe, "val", suites, runtime=job.runtime, progress=None)
        return measured.metrics

    return evaluate_now


def _claims(recipe: Recipe, method: Method) -> list[dict[str, Any]]:
    paper = {"title": method.paper.title, "year": method.paper.year, "link": method.paper.link}
    return [
        {"metric": c.metric, "data": c.data, "value": c.value, "table": c.table, "note": c.note} | paper
        for c in method.paper.claims
        if c.recipe == recipe.recipe
    ]


def _closing_words(folder: RunFolder, metrics: dict[str, float], progress: Progress) -> None:
    seconds = sum(stage["seconds"] for stage in folder.read_summary()["stages"])
    shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    progress.say(f"{shown}\ntrained in {duration(seconds)}; report: {folder.report}")


def load(run: str | Path, device: str | torch.device = "cpu") -> TrainedRun:
    """A finished run with its trained networks: `load(RUN).predict(images)`."""
    return load_trained(Path(run), device)


def evaluate(
    run: str | Path,
    *,
    on: str | None = None,
    suites: Sequence[str] = (),
    foreign: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, float]:
    """Measure a finished run again, with other suites or on another source; adds to its summary and renews its report.

    What was measured on another source is named `suite@kind/metric`. `foreign` are sources whose pictures are of none of the
    run's classes, for suite ood. `run` may also be a file that holds its whole recipe, such as `products/set/set.safetensors`
    of a distilled set: that is measured and nothing is written.
    """
    if Path(run).suffix == ".safetensors":
        return _evaluate_file(Path(run), on=on, suites=suites, quiet=quiet)
    trained = load_trained(Path(run))
    settings = [f"evaluate.suites=[{', '.join(suites)}]"] if suites else []
    settings += [f"evaluate.foreign={json.dumps(list(foreign))}"] if foreign else []
    recipe, _ = resolve(trained.recipe, settings=settings)
    source = open_source(on or recipe.data.source)
    if source.classes != trained.classes and not isinstance(trained.method, Embedder):
        raise UserError(
            f"--on {on or recipe.data.source}: has {len(source.classes)} classes ({', '.join(source.classes[:3])}, ...), "
            f"the run knows {len(trained.classes)} ({', '.join(trained.classes[:3])}, ...)"
        )
    runtime = start(recipe.train)
    progress = Progress(quiet=quiet)
    _, set_aside = _check(source, recipe)
    trained.method.to(runtime.device)
    pictures = PictureData(source, recipe.data, device=runtime.device, set_aside=set_aside)
    with trained.folder.lock():
        try:
            measured = measure(
                trained.method, pictures, recipe, "test", recipe.evaluate.suites, runtime=runtime, progress=progress
            )
        finally:
            pictures.close()
            progress.close()
        if on is not None:
            measured = measured.renamed(source.kind)
        trained.folder.write_summary(merge_metrics(trained.summary, measured))
        measured.store_pictures(trained.folder)
        write_page([trained.folder.path])
    return measured.metrics


def _evaluate_file(path: Path, *, on: str | None, suites: Sequence[str], quiet: bool) -> dict[str, float]:
    """Measure what a file of its own holds, on the data that its recipe names or on others."""
    method = load_whole(path)
    settings = [f"evaluate.suites=[{', '.join(suites)}]"] if suites else []
    recipe, _ = resolve(method.recipe, data=on, settings=settings)
    source = open_source(recipe.data.source)
    if source.classes != tuple(method.classes):
        raise UserError(f"{recipe.data.source}: has other classes than {path}")
    runtime, progress = start(recipe.train), Progress(quiet=quiet)
    _, set_aside = _check(source, recipe)
    method.to(runtime.device)
    pictures = PictureData(source, recipe.data, device=runtime.device, set_aside=set_aside)
    try:
        return measure(
            method, pictures, recipe, "test", recipe.evaluate.suites, runtime=runtime, progress=progress
        ).metrics
    finally:
        pictures.close()
        progress.close()


@dataclass(frozen=True)
class Predictions:
    """What `predict` made: its folder, what to open in it, how many pictures, and files left out, with reasons."""

    out: Path
    count: int
    faults: dict[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ("predictions.csv", "pictures")


def predict(
    run: str | Path, paths: Sequence[str | Path], *, out: str | Path = "predictions", quiet: bool = False
) -> Predictions:
    """Labels, heatmaps and boxes of pictures and folders of pictures: `OUT/predictions.csv` and a PNG of each.

    Of a method that reads cases (varifocal): a karyogram of each case instead, see predicting_cases.py. Of an encoder
    (adam_v2): embeddings and nearest neighbours, see predicting_embeddings.py.
    """
    from partwise.predicting import predict_files
    from partwise.predicting_cases import predict_cases
    from partwise.predicting_embeddings import predict_embeddings

    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = load_trained(Path(run), device)
    progress = Progress(quiet=quiet)
    try:
        kind, shown = predict_files, Predictions.shown
        if isinstance(trained.method, CaseNamer):
            kind, shown = predict_cases, ("karyograms.html", "chromosomes.csv")
        elif isinstance(trained.method, Embedder):
            kind, shown = predict_embeddings, ("embeddings.safetensors", "predictions.csv", "pictures")
        count, faults = kind(trained, [Path(path) for path in paths], Path(out), progress)
    finally:
        progress.close()
    return Predictions(Path(out), count, faults, shown)


def export(run: str | Path, *, to: str, out: str | Path | None = None) -> Path:
    """The backbone of a finished run under the names of another library: `timm`, `torchvision` or `smp` (its encoders).

    Writes tensors alone, as safetensors (default: `RUN/TO.safetensors`), and returns the file. Raises UserError where the run
    has no backbone, or the library no such network.
    """
    folder = RunFolder(Path(run))
    folder.require()
    encoder = load_encoder(folder.model)
    path = Path(out) if out is not None else folder.path / f"{to}.safetensors"
    write_atomically(path, save({n: t.contiguous() for n, t in export_tensors(encoder.backbone, to).items()}))
    return path


def report(runs: Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """One self-contained HTML page of a run or study, or of several side by side."""
    folders = [Path(run) for run in runs]
    return write_page(folders, Path(out) if out is not None else None)


def data(source: str, *, out: str | Path | None = None) -> DataReport:
    """Check and describe a data set; with `out`, as one HTML page with a contact sheet."""
    opened = open_source(source)
    checked = check_source(opened)
    if out is not None:
        from partwise.report.data_page import write_data_page

        write_data_page(checked, Path(out))
    return checked


def doctor() -> dict[str, str]:
    """Versions, devices, optional parts and write access, as lines of name and finding."""
    from importlib.metadata import PackageNotFoundError, version

    from partwise.engine.runtime import choose_precision, processor_name

    found: dict[str, str] = {}
    for package in ("partwise", "torch", "torchvision", "lightning", "timm", "pydantic", "numpy"):
        found[package] = version(package)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found["device"] = torch.cuda.get_device_name(0) if device.type == "cuda" else processor_name()
    precision, reason = choose_precision("auto", device)
    found["precision"] = f"{precision} ({reason})"
    found["threads"] = str(torch.get_num_threads())
    for package, purpose in (("tensorboard", "train.tensorboard"), ("kornia", "tests against oracles")):
        try:
            found[package] = f"{version(package)} ({purpose})"
        except PackageNotFoundError:
            found[package] = f"not installed ({purpose})"
    found["writable here"] = "yes" if os.access(Path.cwd(), os.W_OK) else "no: choose --out elsewhere"
    return found
