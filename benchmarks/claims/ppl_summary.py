"""What the units of the claim study of PPL say together: means, the endpoints named in ppl.py, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from paired import LEVEL, Units, difference, endpoints

MIOU = "segmentation/cam_miou"
BESIDE_PLAIN = {
    "precision": "segmentation/cam_precision",
    "recall": "segmentation/cam_recall",
    "recall of the telling part": "segmentation/recall_telling",
    "recall of other parts": "segmentation/recall_others",
}
SHOWN = (MIOU, *BESIDE_PLAIN.values(), "classification/map")


def compared(found: Units, patches: str, plain: str) -> dict[str, Any]:
    """Means of the arms, the primary endpoint, the secondary ones with Holm's correction, and all others beside.

    `patches` and `plain` are the arms that stand for patch learning and for plain training.

    An endpoint without two pairs, or whose number the source does not have, is left out; the family that Holm corrects
    is what is left.
    """
    primary = difference(found, patches, plain, MIOU)
    family = {f"epl - {plain}": difference(found, "epl", plain, MIOU)}
    if (single := best_single(found)) is not None:
        family[f"{patches} - {single}, the best single position"] = difference(found, patches, single, MIOU)
    pair = f"{patches} - {plain}"
    family |= {f"{pair}, {what}": difference(found, patches, plain, name) for what, name in BESIDE_PLAIN.items()}
    rest = [name for name in found if name not in (patches, plain)]
    others = {f"{patches} - {name}": difference(found, patches, name, MIOU) for name in rest}
    return {
        "arms": {name: averages(by_seed) for name, by_seed in found.items()},
        **endpoints({pair: primary}, family),
        "beside": {name: result.plain() for name, result in others.items() if result is not None},
    }


def best_single(found: Units) -> str | None:
    """The single position with the best mean on validation, over the seeds that all of them have."""
    singles = {name: by_seed for name, by_seed in found.items() if name.startswith("single_")}
    seeds = set.intersection(*(set(by_seed) for by_seed in singles.values())) if singles else set()
    if not seeds:
        return None

    def mean(name: str) -> float:
        return statistics.fmean(singles[name][seed]["chosen"]["validation_cam_miou"] for seed in seeds)

    return max(singles, key=mean)


def averages(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, deviation and values of every number over the seeds, and what was chosen, in order of seed."""
    seeds = sorted(by_seed)
    chosen = [by_seed[seed]["chosen"] for seed in seeds]
    shown: dict[str, Any] = {"seeds": seeds, **{key: [one[key] for one in chosen] for key in ("length", "budgets")}}
    for name in by_seed[seeds[0]]["metrics"]:
        values = [by_seed[seed]["metrics"][name] for seed in seeds if name in by_seed[seed]["metrics"]]
        spread = statistics.stdev(values) if len(values) > 1 else None
        shown[name] = {"mean": statistics.fmean(values), "std": spread, "values": values}
    return shown


def table(values: Mapping[str, Any]) -> str:
    """The summary as text."""
    means = {
        f"{arm} ({len(found['seeds'])})": {name: found[name]["mean"] for name in SHOWN if name in found}
        for arm, found in values["arms"].items()
    }
    lines = [f"{'arm (seeds)':22}" + "".join(f"{name.split('/')[1]:>18}" for name in SHOWN)]
    for arm, metrics in (means | values["trivial"]).items():
        lines.append(f"{arm:22}" + "".join(f"{metrics[n]:18.4f}" if n in metrics else " " * 18 for n in SHOWN))
    for group in ("primary", "secondary", "beside"):
        for name, result in values[group].items():
            interval = f"{result['mean']:+.4f} [{result['low']:+.4f}, {result['high']:+.4f}] at {LEVEL:.0%}"
            rest = [f"n {result['n']}"]
            rest += [f"p after Holm {result['p_holm']:.4f}"] if "p_holm" in result else []
            rest += [result["verdict"]] if "verdict" in result else []
            lines.append(f"{group}: {name}: {interval}, {', '.join(rest)}")
    return "\n".join(lines)
