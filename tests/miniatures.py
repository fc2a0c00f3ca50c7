"""A small data set in each layout that a reader knows, made of generated pictures. For tests; nothing here is real data."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n02084071", "n07753592")


@dataclass(frozen=True)
class Miniature:
    """What a maker made. `torn`: a file that holds pixels and can be cut short. `listed`: a picture that an index names."""

    source: str
    root: Path
    splits: dict[str, int]
    classes: int
    torn: Path
    listed: Path | None = None


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth picture of its own for every seed, uint8 `(H, W, 3)`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_picture(path: Path, seed: int, *, height: int = 24, width: int = 32, mode: str = "RGB") -> Path:
    """A generated picture, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels(seed, height, width)).convert(mode)
    image.save(path, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else None)
    return path


def jpeg(array: np.ndarray) -> bytes:
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _cifar_rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([pixels(seed + i, 32, 32).transpose(2, 0, 1) for i in range(count)])
    return images.reshape(count, 3072), np.arange(count, dtype=np.uint8) % 10


def cifar10_binary(root: Path, seed: int = 0) -> Miniature:
    """`cifar-10-batches-bin` of four pictures a batch."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for batch, name in enumerate(names):
        rows, labels = _cifar_rows(4, 100 * batch + seed)
        (folder / name).write_bytes(np.concatenate([labels[:, None], rows], axis=1).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    return Miniature(f"cifar10:{root}", root, {"train": 20, "test": 4}, 10, folder / "data_batch_3.bin")


def cifar10_python(root: Path, seed: int = 0) -> Miniature:
    """`cifar-10-batches-py`, as pickle protocol 2 writes it."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for batch, name in enumerate(names):
        rows, labels = _cifar_rows(4, 100 * batch + seed)
        content = {b"data": rows, b"labels": labels.tolist(), b"filenames": [b"x.png"] * 4, b"batch_label": b"batch"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"label_names": [f"class{i}" for i in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return Miniature(f"cifar10:{root}", root, {"train": 20, "test": 4}, 10, folder / "data_batch_3")


def cifar10_pack(root: Path, seed: int = 0) -> Miniature:
    """`cifar10_jpeg.npz`: JPEG files end to end."""
    root.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {"class_names": np.array([f"class{i}" for i in range(10)])}
    for split, count in (("train", 20), ("test", 4)):
        files = [jpeg(pixels(len(split) * 100 + i + seed, 32, 32)) for i in range(count)]
        arrays[f"{split}_bytes"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8) % 10
    np.savez(root / "cifar10_jpeg.npz", **arrays)
    return Miniature(f"cifar10:{root}", root, {"train": 20, "test": 4}, 10, root / "cifar10_jpeg.npz")


def cifar100_binary(root: Path, seed: int = 0) -> Miniature:
    """`cifar-100-binary`, five pictures and two."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, count in (("train.bin", 5), ("test.bin", 2)):
        rows, labels = _cifar_rows(count, len(name) + seed)
        fine = labels[:, None] * 9
        (folder / name).write_bytes(np.concatenate([labels[:, None], fine, rows], axis=1).tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)))
    (folder / "coarse_label_names.txt").write_text("\n".join(f"coarse{i}" for i in range(20)))
    return Miniature(f"cifar100:{root}", root, {"train": 5, "test": 2}, 100, folder / "train.bin")


def cifar100_python(root: Path, seed: int = 0) -> Miniature:
    """`cifar-100-python`, read for its superclasses."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count in (("train", 5), ("test", 2)):
        rows, labels = _cifar_rows(count, len(name) + seed)
        content = {"data": rows, "fine_labels": (labels * 9).tolist(), "coarse_labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {f"{kind}_label_names": [f"{kind}{i}" for i in range(n)] for kind, n in (("fine", 100), ("coarse", 20))}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return Miniature(f"cifar100:{root}?labels=coarse", root, {"train": 5, "test": 2}, 20, folder / "train")


def imagefolder(root: Path) -> Miniature:
    """`train/`, `val/` and `test/` with two classes."""
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_picture(root / split / name / f"{i}.png", 10 * i + number + len(split) * 100)
    (root / "train" / "cat" / ".hidden.png").write_bytes(b"no picture")
    (root / "train" / "cat" / "notes.txt").write_text("no picture")
    splits = {"train": 6, "val": 2, "test": 4}
    return Miniature(f"imagefolder:{root}", root, splits, 2, root / "train" / "dog" / "1.png")


def imagefolder_flat(root: Path) -> Miniature:
    """One level: a folder a class."""
    for number, name in enumerate(("cat", "dog", "emu")):
        for i in range(2):
            write_picture(root / name / f"{i}.jpg", 10 * i + number)
    return Miniature(f"imagefolder:{root}", root, {"": 6}, 3, root / "emu" / "0.jpg")


def images(root: Path) -> Miniature:
    """Pictures without labels, some in a folder below."""
    files = [write_picture(root / name, seed) for seed, name in enumerate(("b.jpg", "a.png", "deep/er/c.bmp"))]
    return Miniature(f"images:{root}", root, {"": 3}, 0, files[0])


def csv(root: Path) -> Miniature:
    """A table with every column."""
    rows = ["file,label,split,group,mask,box"]
    for i, split in enumerate(("train", "train", "val", "test")):
        write_picture(root / "pictures" / f"{i}.png", i)
        mask = Image.fromarray((pixels(i)[..., 0] > 99).astype(np.uint8))
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / "masks" / f"{i}.png")
        rows.append(f"pictures/{i}.png,{'cat' if i % 2 else 'dog'},{split},p{i},masks/{i}.png,1 2 {10 + i} 12.5")
    (root / "table.csv").write_text("\n".join(rows))
    listed = root / "pictures" / "2.png"
    return Miniature(
        f"csv:{root / 'table.csv'}", root, {"train": 2, "val": 1, "test": 1}, 2, root / "pictures" / "1.png", listed
    )


def tinyimagenet(root: Path) -> Miniature:
    """The original layout with three classes."""
    top = root / "tiny-imagenet-200"
    top.mkdir(parents=True)
    (top / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (top / "words.txt").write_text("".join(f"{wnid}\tword {wnid[-1]}, other\n" for wnid in WNIDS))
    lines = []
    for number, wnid in enumerate(WNIDS):
        names = [f"{wnid}_{i}.JPEG" for i in range(2)]
        for i, name in enumerate(names):
            write_picture(top / "train" / wnid / "images" / name, 10 * number + i, height=64, width=64)
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(f"{name}\t0\t5\t63\t40\n" for name in names))
        write_picture(top / "val" / "images" / f"val_{number}.JPEG", 90 + number, height=64, width=64)
        lines.append(f"val_{number}.JPEG\t{wnid}\t1\t2\t3\t4\n")
    (top / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    torn = top / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_0.JPEG"
    listed = top / "val" / "images" / "val_1.JPEG"
    return Miniature(f"tinyimagenet:{root}", root, {"train": 6, "val": 3}, 3, torn, listed)


def imagenet(root: Path) -> Miniature:
    """`train/<wnid>/` and `val/<wnid>/`."""
    for number, wnid in enumerate(WNIDS):
        for i in range(2):
            write_picture(root / "train" / wnid / f"{wnid}_{i}.JPEG", 10 * number + i)
        write_picture(root / "val" / wnid / f"ILSVRC2012_val_0000000{number}.JPEG", 90 + number)
    return Miniature(
        f"imagenet:{root}", root, {"train": 6, "val": 3}, 3, root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    )


def imagenet_flat(root: Path) -> Miniature:
    """A flat `val/` with the development kit, whose class numbers are in another order than the wnids."""
    from scipy.io import savemat

    for number, wnid in enumerate(WNIDS):
        write_picture(root / "train" / wnid / f"{wnid}_0.JPEG", number)
        write_picture(root / "val" / f"ILSVRC2012_val_0000000{number + 1}.JPEG", 90 + number)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    rows = [(3 - i, wnid, f"word {i}, other", 0) for i, wnid in enumerate(WNIDS)] + [(4, "n00001740", "entity", 3)]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kinds)[:, None]})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n")
    torn = root / "val" / "ILSVRC2012_val_00000002.JPEG"
    return Miniature(f"imagenet:{root}", root, {"train": 3, "val": 3}, 3, torn, torn)


def imagenet_samples(root: Path) -> Miniature:
    """Pictures in one folder with `labels.csv`."""
    rows = ["index,wnid,name,file"]
    for number, wnid in enumerate(WNIDS):
        file = write_picture(root / f"{wnid}_word.JPEG", number)
        rows.append(f"{number},{wnid},word_{number},{file.name}")
    (root / "labels.csv").write_text("\n".join(rows))
    listed = root / f"{WNIDS[1]}_word.JPEG"
    return Miniature(f"imagenet:{root}", root, {"": 3}, 3, root / f"{WNIDS[0]}_word.JPEG", listed)


def cub(root: Path) -> Miniature:
    """`CUB_200_2011` with two species and one box that leaves its picture."""
    top = root / "CUB_200_2011"
    folders = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    files = [f"{folder}/bird_{i}.jpg" for folder in folders for i in range(3)]
    for seed, file in enumerate(files):
        write_picture(top / "images" / file, seed, height=60, width=80)
    order = [4, 2, 0, 1, 3, 5]
    tables = {
        "images.txt": [f"{n} {files[i]}" for n, i in enumerate(order, 1)],
        "image_class_labels.txt": [f"{n} {1 + i // 3}" for n, i in enumerate(order, 1)],
        "train_test_split.txt": [f"{n} {int(i % 3 > 0)}" for n, i in enumerate(order, 1)],
        "bounding_boxes.txt": [f"{n} 10.0 20.5 30.0 {45.0 if i == 3 else 20.0}" for n, i in enumerate(order, 1)],
        "classes.txt": [f"{n} {folder}" for n, folder in enumerate(folders, 1)],
    }
    for name, lines in tables.items():
        (top / name).write_text("\n".join(lines) + "\n")
    return Miniature(
        f"cub:{root}", root, {"train": 4, "test": 2}, 2, top / "images" / files[1], top / "images" / files[2]
    )


Maker = Callable[..., Miniature]

MAKERS: dict[str, list[Maker]] = {
    "cifar10": [cifar10_binary, cifar10_python, cifar10_pack],
    "cifar100": [cifar100_binary, cifar100_python],
    "imagefolder": [imagefolder, imagefolder_flat],
    "images": [images],
    "csv": [csv],
    "tinyimagenet": [tinyimagenet],
    "imagenet": [imagenet, imagenet_flat, imagenet_samples],
    "cub": [cub],
}
"""Kind -> the layouts it reads."""
