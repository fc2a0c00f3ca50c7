"""The tables of README.md and docs/results.md, written between their `<!-- results -->` marks from `results/*.json`.

    python benchmarks/tables.py           (writes both pages)
    python benchmarks/tables.py --check   (writes nothing; exit status 1 where a page is not up to date)

A number that is in no JSON cannot come into a table. What is shown of which file is said in ROWS and COMPARED; a file that
neither names is listed with the command that made it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claim_tables import cells_block, encoders_block, maps_block
from partwise.methods.recipes import find_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "results", "docs/results.md": "../results"}
"""Page -> the way from it to the results."""
CLAIMS = {
    "docs/claims/ppl.md": ("claims_ppl_creatures", maps_block),
    "docs/claims/varifocal.md": ("claims_varifocal_cells", cells_block),
    "docs/claims/adam_v2.md": ("claims_adam_v2_cxr", encoders_block),
}
"""Page -> the study that it shows, and what writes its tables from the study's values, None where there are none yet."""
MARKED = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)

CIFAR10 = r"cifar10_resnet20_(?P<arm>[a-z]+)_(?P<epochs>[\d.]+)ep_seed\d+"
CIFAR10_EPOCHS = f"{find_recipe('cutmix/cifar10-resnet20')[0].train.epochs:g}"
ASKED_OF_CIFAR10 = {"arm": "cutmix", "epochs": CIFAR10_EPOCHS}


@dataclass(frozen=True)
class Row:
    """One number: `files` matches names of results, of which all with equal groups (the seeds of an arm) make one row.

    `title` may name the groups, `path` leads into the file's `values`, `form` writes the number. `least` or `most` is what
    was asked, of the rows whose groups are those in `asked_of`.
    """

    files: str
    title: str
    path: tuple[str, ...]
    form: str
    least: float | None = None
    most: float | None = None
    asked_of: Mapping[str, str] | None = None


TOP1 = ("metrics", "classification/top1")
CAM, PSEUDO, MIOU = (("metrics", f"segmentation/{name}") for name in ("cam_miou", "pseudo_miou", "miou"))
CIFAR10_TITLE = "CIFAR-10, ResNet-20, mix {arm}, {epochs} epochs"
FOLLOWING = {
    "before": "as taught",
    "boxcar, 1e-5": "following for a pass, boxcar, 1e-5",
    "boxcar, 1e-4": "following for a pass, boxcar, 1e-4",
    "boxcar as it is, 1e-4": "following for a pass, boxcar as it is, 1e-4",
    "bands, 1e-5": "following for a pass, bands, 1e-5",
    "bands, 1e-4": "following for a pass, bands, 1e-4",
    "autograd, 1e-4": "following for a pass, autograd, 1e-4",
}
"""Results of varifocal_following, and what was done to the boxes."""
TIMES = "times_as_fast"
PARTS = r"part_whole_(?P<arm>[a-z]+)_seed\d+"
CELLS, K, ELSEWHERE = "varifocal_cells_varifocal_seed0", "karyotype/", "karyotype@chromosomes/"
CREATURES, KARYOTYPES, RADIOGRAPHS = "worlds_creatures", "worlds_karyotypes", "worlds_radiographs"
ROWS = (
    Row("demo", "`make demo`: `classification/top1`, creatures test split", TOP1, "{:.3f}", least=0.9),
    Row("demo", "`make demo`, set-up aside: seconds", ("seconds",), "{:.0f}", most=240),
    Row(
        CIFAR10,
        f"{CIFAR10_TITLE}: `classification/top1`, last weights",
        TOP1,
        "{:.4f}",
        least=0.86,
        asked_of=ASKED_OF_CIFAR10,
    ),
    Row(
        CIFAR10,
        f"{CIFAR10_TITLE}: seconds of training, on the threads that the file names",
        ("train_seconds",),
        "{:.0f}",
    ),
    Row("ppl_demo", "`ppl/demo`: seconds", ("seconds",), "{:.0f}", most=900),
    Row("ppl_demo", "`ppl/demo`: `segmentation/cam_miou`, creatures test split", CAM, "{:.3f}"),
    Row("ppl_demo", "`ppl/demo`: `segmentation/pseudo_miou`, training split", PSEUDO, "{:.3f}"),
    Row("ppl_demo", "`ppl/demo`: `segmentation/miou`, creatures test split", MIOU, "{:.3f}"),
    Row(
        CREATURES, "Creatures, 64 px, one core: pictures a second", ("images_64px", "per_second"), "{:.0f}", least=1000
    ),
    Row(CREATURES, "Creatures, top-1 (chance 0.1): a small plain network", ("plain_network",), "{:.3f}"),
    Row(CREATURES, "Creatures, top-1: colour histogram alone", ("probes", "colour_histogram"), "{:.3f}"),
    Row(CREATURES, "Creatures, top-1: ground alone", ("probes", "ground_alone"), "{:.3f}"),
    Row(CREATURES, "Creatures, top-1: size and position alone", ("probes", "box_alone"), "{:.3f}"),
    Row(
        KARYOTYPES,
        "Karyotypes, 64 px, one core: pictures a second",
        ("images_64px", "per_second"),
        "{:.0f}",
        least=1000,
    ),
    Row(KARYOTYPES, "Karyotypes, top-1 (chance 0.04): a small plain network", ("plain_network",), "{:.3f}"),
    Row(KARYOTYPES, "Karyotypes, top-1: grey histogram alone", ("probes", "grey_histogram"), "{:.3f}"),
    Row(KARYOTYPES, "Karyotypes, top-1: size alone", ("probes", "size_alone"), "{:.3f}"),
    Row(KARYOTYPES, "Karyotypes, top-1: a linear network", ("probes", "linear_pixels"), "{:.3f}"),
    Row(
        RADIOGRAPHS,
        "Radiographs, 64 px, one core: pictures a second",
        ("images_64px", "per_second"),
        "{:.0f}",
        least=1000,
    ),
    Row(RADIOGRAPHS, "Radiographs, top-1 (chance 0.25): a small plain network", ("plain_network", "top1"), "{:.3f}"),
    Row(RADIOGRAPHS, "Radiographs, top-1: grey histogram alone", ("probes", "grey_histogram"), "{:.3f}"),
    Row(RADIOGRAPHS, "Radiographs, top-1: the heart's width alone", ("probes", "heart_width"), "{:.3f}"),
    Row(
        CELLS,
        "`varifocal/cells-small`, real cells: `karyotype/type_top1`",
        ("metrics", f"{K}type_top1"),
        "{:.3f}",
        0.96,
    ),
    Row(CELLS, "... `karyotype/polarity_top1`", ("metrics", f"{K}polarity_top1"), "{:.3f}", 0.98),
    Row(
        CELLS,
        "... `karyotype/healthy/optimal_case_accuracy`",
        ("metrics", f"{K}healthy/optimal_case_accuracy"),
        "{:.3f}",
        0.975,
    ),
    Row(
        CELLS,
        "... `karyotype/healthy/optimal_complete_case_share`",
        ("metrics", f"{K}healthy/optimal_complete_case_share"),
        "{:.3f}",
        0.40,
    ),
    Row(
        CELLS,
        "... `karyotype/optimal_warning_rate_healthy`",
        ("metrics", f"{K}optimal_warning_rate_healthy"),
        "{:.3f}",
        most=0.05,
    ),
    Row(
        CELLS,
        "... `karyotype/optimal_warning_sensitivity`",
        ("metrics", f"{K}optimal_warning_sensitivity"),
        "{:.3f}",
    ),
    Row(CELLS, "... seconds of training, one thread", ("train_seconds",), "{:.0f}", most=2700),
    Row(CELLS, "... seconds that one more case takes `predict`, one core", ("seconds_a_case",), "{:.2f}", most=3),
    Row(
        CELLS,
        "... on another laboratory's cells as it is: `karyotype/type_top1`",
        ("elsewhere", f"{ELSEWHERE}type_top1"),
        "{:.3f}",
    ),
    Row(
        CELLS,
        "... on another laboratory's cells as it is: `karyotype/polarity_top1`",
        ("elsewhere", f"{ELSEWHERE}polarity_top1"),
        "{:.3f}",
    ),
    Row(
        "pretraining_views",
        "Adam-v2's 14 views, grey, over PIL's chains, two cores",
        ("ratios", "grey over pil"),
        "{:.2f}",
        4.0,
    ),
    Row(
        "pretraining",
        "Adam-v2, a whole step over its plain re-creation, two cores",
        ("ours over published",),
        "{:.2f}",
        1.0,
    ),
    Row("pretraining", "... first phase over lightly's blocks, two cores", ("ours over lightly",), "{:.2f}", 1.0),
    Row("distillation_dm", "DM with FYI, a step over its plain loop, float32", ("fp32", TIMES), "{:.2f}", 2.0),
    Row("distillation_dm", "... real pictures in bfloat16", ("bf16", TIMES), "{:.2f}", 3.0),
    Row("distillation_dsa", "DSA with FYI, a step over its plain loop", ("loop", TIMES), "{:.2f}", 1.3),
    Row("adam_v2_demo", "`adam_v2/demo`, set-up aside: seconds", ("seconds",), "{:.0f}", most=900),
    *(
        Row(PARTS, f"`adam_v2/demo`, {{arm}}: `embedding/{name}`", ("metrics", f"embedding/{name}"), "{:.3f}")
        for name in ("compose_margin", "decompose_top1", "effective_rank", "knn_top1")
    ),
    *(
        Row(
            "varifocal_following",
            f"L-Net alone, validation, boxes {what}: `karyotype/type_top1`",
            (key, "type_top1"),
            "{:.3f}",
        )
        for key, what in FOLLOWING.items()
    ),
)

COMPARED = {"mixing": "CutMix", "training": "Training", "refinement": "Refinement", "maps": "Class maps"}
"""Results that hold comparisons of their own, each a mapping with `asked`, and what to call them."""
RATIOS = ("speed_up", "ratio", "share", "value")


@dataclass(frozen=True)
class Line:
    """A row as it is shown: the number, what was asked and whether it was met, and the files it stands in."""

    title: str
    measured: str
    asked: str
    met: str
    files: tuple[str, ...]


def read_results() -> dict[str, dict[str, Any]]:
    """Name -> content of every file in `results/`, in order of name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((REPOSITORY / "results").glob("*.json"))}


def lines(results: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """Every row that there are numbers for, in the order of ROWS, then the comparisons."""
    made = [line for row in ROWS for line in lines_of(row, results)]
    for name, title in COMPARED.items():
        if name in results:
            made += [comparison(title, name, *found) for found in comparisons(results[name]["values"])]
    return made


def lines_of(row: Row, results: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """One line for each set of files with equal groups."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in results:
        if match := re.fullmatch(row.files, name):
            groups.setdefault(tuple(sorted(match.groupdict().items())), []).append(name)
    made = []
    for group, names in sorted(groups.items()):
        values = [found for name in names if (found := at(results[name]["values"], row.path)) is not None]
        if not values:
            continue
        facts = dict(group)
        asked = row.asked_of is None or facts == row.asked_of
        shown = row.form.format(statistics.median(values))
        if len(values) > 1:
            shown = f"median {shown} of " + ", ".join(row.form.format(value) for value in values)
        verdict = judged(statistics.median(values), row.least if asked else None, row.most if asked else None)
        made.append(Line(row.title.format(**facts), shown, *verdict, tuple(names)))
    return made


def at(values: Any, path: tuple[str, ...]) -> float | None:
    """The number at the end of a path of keys, or None."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, (int, float)) else None


def judged(value: float, least: float | None, most: float | None) -> tuple[str, str]:
    """(what was asked, whether it was met), empty where nothing was."""
    if least is not None:
        return f"at least {least:g}", "yes" if value >= least else "no"
    if most is not None:
        return f"at most {most:g}", "yes" if value <= most else "no"
    return "", ""


def comparisons(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping below `values` that says what was `asked`, with the keys that lead there."""
    if not isinstance(values, Mapping):
        return
    if "asked" in values and any(key in values for key in RATIOS):
        yield path, values
        return
    for key, inner in values.items():
        yield from comparisons(inner, (*path, key))


def comparison(title: str, name: str, path: tuple[str, ...], found: Mapping[str, Any]) -> Line:
    """A comparison that a benchmark made itself."""
    key = next(key for key in RATIOS if key in found)
    words = [part for part in path if part != "compared"]
    if {"ours", "theirs"} <= set(found):
        own = 0 if path[-1] == "compared" else 1  # a key that names the two sides itself says them once
        words[len(words) - own :] = [f"{found['ours']} against {found['theirs']}"]
    unit = {"speed_up": "times as fast", "ratio": "ratio of pictures a second"}.get(key, key)
    asked, met = judged(float(found[key]), float(found["asked"]), None)
    return Line(f"{title}, {', '.join(words)}: {unit}", f"{found[key]:.2f}", asked, met, (name,))


def links(names: tuple[str, ...], way: str) -> str:
    """The files of a line; of several, each by its seed."""
    if len(names) == 1:
        return f"[{names[0]}]({way}/{names[0]}.json)"
    return ", ".join(f"[{name.rpartition('_')[2]}]({way}/{name}.json)" for name in names)


def table(made: list[Line], way: str) -> str:
    """The rows as Markdown."""
    head = ["| What | Measured | Asked | Met | File |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(
        head + [f"| {m.title} | {m.measured} | {m.asked} | {m.met} | {links(m.files, way)} |" for m in made]
    )


def origins(results: Mapping[str, Mapping[str, Any]], way: str) -> str:
    """How each file was made: command, commit (`+`: with changes), date, hardware and threads."""
    rows = ["| File | Made by | Commit | Date | On |", "| --- | --- | --- | --- | --- |"]
    for name, result in results.items():
        commit = f"{result['commit'][:12]}{'+' if result['dirty'] else ''}"
        machine = result["hardware"]
        where = machine["accelerator"] or f"{machine['cpu']}, {machine['cores']} cores"
        rows.append(
            f"| [{name}]({way}/{name}.json) | `{result['command']}` | {commit} | {result['date']} | "
            f"{where}, {result['threads']} threads, torch {result['versions']['torch']} |"
        )
    return "\n".join(rows)


def rendered(page: str, text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a page with its table made anew: README shows what was asked for, docs/results.md everything."""
    way, made = PAGES[page], lines(results)
    if page == "README.md":
        block = table([line for line in made if line.asked], way)
    else:
        block = f"{table(made, way)}\n\n## How they were made\n\n{origins(results, way)}"
    assert MARKED.search(text), f"{page} has no <!-- results --> ... <!-- /results -->"
    return MARKED.sub(lambda match: f"{match[1]}{block}\n{match[2]}", text)


def claimed(page: str, text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a page of docs/claims with its tables made anew."""
    study, block_of = CLAIMS[page]
    block = block_of(results[study]["values"] if study in results else None)
    assert MARKED.search(text), f"{page} has no <!-- results --> ... <!-- /results -->"
    return MARKED.sub(lambda match: f"{match[1]}{block}\n{match[2]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not up to date")
    options = parser.parse_args()
    results = read_results()
    stale = []
    for page in (*PAGES, *CLAIMS):
        text = (REPOSITORY / page).read_text()
        new = rendered(page, text, results) if page in PAGES else claimed(page, text, results)
        if new != text:
            stale.append(page)
            if not options.check:
                (REPOSITORY / page).write_text(new)
    print(f"{'not up to date' if options.check else 'written'}: {', '.join(stale)}" if stale else "up to date")
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
