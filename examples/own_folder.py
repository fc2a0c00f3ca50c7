"""Check a folder of pictures, train on it, and name the pictures of another folder.

    python examples/own_folder.py PICTURES PHOTOS [--weights resnet18.safetensors] [--out runs/mine] [--set A.B=C ...]

PICTURES has a sub-folder for each class. Started again it goes on where it was; see docs/start.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import partwise as pw
from partwise import api


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, help="pretrained weights of the network, .safetensors or .pth")
    parser.add_argument("--out", type=Path, default=Path("runs/mine"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as `partwise train --set`")
    options = parser.parse_args()
    source = f"imagefolder:{options.pictures}"

    found = api.data(source)
    print("\n".join(found.lines()))
    # A few bad files are no reason to stop: they are left out and listed in the report.
    settings = ["data.on_fault=skip", *options.set]
    if options.weights is not None:
        settings.append(f"model.weights={options.weights}")
    folder = pw.train("cutmix/imagefolder", data=source, out=options.out, settings=settings)

    run = pw.load(folder)
    for name, value in run.summary["metrics"].items():
        print(f"{name}: {value:.3f}")
    made = pw.predict(folder, [options.photos], out=folder / "predictions")
    print(f"{made.count} pictures named in {made.out / 'predictions.csv'}; report: {folder / 'report.html'}")


if __name__ == "__main__":
    main()
