"""A small set in each layout of radiographs and retina photographs, made of generated pictures. Nothing here is real data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from partwise.data.readers.chest_masks import CONTOURS
from partwise.data.readers.chestxray14 import FINDINGS
from partwise.data.readers.chexpert import OBSERVATIONS
from partwise.data.readers.vindr import GLOBAL, LOCAL, RIBS
from tests.miniatures import Maker, Miniature, write_picture
from tests.miniatures_masks import write_lines

Corners = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels, half-open."""
HEIGHT, WIDTH = 24, 32
ORGANS: Mapping[str, Corners] = {
    "right lung": (2, 4, 12, 20),
    "left lung": (18, 4, 30, 20),
    "heart": (10, 12, 20, 22),
    "right clavicle": (4, 5, 10, 7),
    "left clavicle": (20, 5, 28, 7),
}
"""Where the organs of every miniature are; the heart overlaps both lungs, the clavicles lie on them."""
FOLDERS = {"RL": "right lung", "LL": "left lung", "H": "heart", "RCLA": "right clavicle", "LCLA": "left clavicle"}


def block(*corners: Corners, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """bool `(H, W)`: true inside the rectangles."""
    inside = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in corners:
        inside[y1:y2, x1:x2] = True
    return inside


def write_area(path: Path, inside: np.ndarray, *, mode: str = "1") -> Path:
    """A mask file: white on black, of one bit or in another mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(inside.astype(np.uint8) * 255).convert(mode).save(path)
    return path


def outline(corners: Corners, count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """`count` points round a rectangle, float64 `(count, 2)`, as the pack of contours has them: see readers/chest_masks.py."""
    x1, y1, x2, y2 = corners
    turn = np.linspace(0, 4, count, endpoint=False)
    along = turn % 1
    side = turn.astype(int)
    x = np.select(
        [side == 0, side == 1, side == 2, side == 3], [x1 + along * (x2 - x1), x2, x2 - along * (x2 - x1), x1]
    )
    y = np.select(
        [side == 0, side == 1, side == 2, side == 3], [y1, y1 + along * (y2 - y1), y2, y2 - along * (y2 - y1)]
    )
    return np.stack([x * 1024 / width, y * 1024 / height], axis=1) - 0.5


def write_contours(root: Path, cases: Sequence[str]) -> None:
    """The pack of contours."""
    for folder, count in CONTOURS.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for case in cases:
            np.save(root / folder / f"{case}.npy", outline(ORGANS[FOLDERS[folder]], count))


def cxrmasks(root: Path) -> Miniature:
    """Pack of masks with the contours of all but one case of JSRT beside it."""
    top = root / "chest_xray"
    jsrt = ("JPCLN001", "JPCLN002", "JPCLN016", "JPCNN005", "JPCNN012")
    rows = ["file,source,nodule,ctr"]
    for part, names in (("jsrt", jsrt), ("wingspan", ("wingspan_000", "wingspan_001", "wingspan_002"))):
        for seed, name in enumerate(names):
            write_picture(top / part / "img" / f"{name}.jpg", 10 * len(part) + seed, mode="L")
            for organ in ("heart", "left lung", "right lung"):
                write_area(top / part / "mask" / organ.replace(" ", "_") / f"{name}.png", block(ORGANS[organ]))
            rows.append(f"{part}/img/{name}.jpg,{part},{int(name.startswith('JPCLN')) if part == 'jsrt' else ''},0.5")
    write_lines(top / "labels.csv", rows)
    write_contours(root / "chest_xray_landmarks", [name for name in jsrt if name != "JPCLN016"])
    torn, listed = top / "wingspan" / "img" / "wingspan_002.jpg", top / "jsrt" / "img" / "JPCNN005.jpg"
    return Miniature(f"cxrmasks:{root}", root, {"train": 4, "val": 2, "test": 2}, 3, torn, listed)


def cxrmasks_jsrt(root: Path) -> Miniature:
    """The same pack, JSRT alone and with clavicles; JPCLN016 has no mask then."""
    made = cxrmasks(root)
    listed = root / "chest_xray" / "jsrt" / "img" / "JPCNN005.jpg"
    torn = root / "chest_xray" / "jsrt" / "img" / "JPCLN002.jpg"
    return Miniature(f"{made.source}?part=jsrt", root, {"train": 3, "val": 1, "test": 1}, 4, torn, listed)


def jsrt(root: Path) -> Miniature:
    """Converted pictures and SCR's folds of masks, GIF."""
    for number in (1, 2, 5, 8):
        case = f"JPCLN{number:03d}" if number < 5 else f"JPCNN{number:03d}"
        write_picture(root / "All247images" / f"{case}.IMG.png", number, mode="L")
        for organ, corners in ORGANS.items():
            folder = root / "scratch" / f"fold{2 - number % 2}" / "masks" / organ
            write_area(folder / f"{case}.gif", block(corners), mode="L")
    torn = root / "All247images" / "JPCLN002.IMG.png"
    return Miniature(f"jsrt:{root}", root, {"train": 2, "val": 1, "test": 1}, 4, torn)


def jsrt_nodules(root: Path) -> Miniature:
    """Without masks."""
    for seed, case in enumerate(("JPCLN001", "JPCLN154", "JPCNN093")):
        write_picture(root / f"{case}.png", seed, mode="L")
    return Miniature(f"jsrt:{root}?labels=nodule", root, {"train": 2, "val": 1}, 2, root / "JPCLN154.png")


def montgomery(root: Path) -> Miniature:
    """`MontgomerySet` with three persons."""
    top = root / "MontgomerySet"
    for seed, name in enumerate(("MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0104_1")):
        write_picture(top / "CXR_png" / f"{name}.png", seed, mode="L")
        for side in ("left", "right"):
            write_area(top / "ManualMask" / f"{side}Mask" / f"{name}.png", block(ORGANS[f"{side} lung"]))
    write_lines(top / "ClinicalReadings" / "MCUCXR_0001_0.txt", ["normal"])
    return Miniature(f"montgomery:{root}", root, {"": 3}, 2, top / "CXR_png" / "MCUCXR_0104_1.png")


def shenzhen(root: Path) -> Miniature:
    """`ChinaSet_AllFiles` with three persons."""
    top = root / "ChinaSet_AllFiles"
    for seed, name in enumerate(("CHNCXR_0001_0", "CHNCXR_0327_1", "CHNCXR_0662_1")):
        write_picture(top / "CXR_png" / f"{name}.png", seed, mode="L")
    write_lines(top / "ClinicalReadings" / "CHNCXR_0001_0.txt", ["normal"])
    return Miniature(f"shenzhen:{root}", root, {"": 3}, 2, top / "CXR_png" / "CHNCXR_0327_1.png")


def chestxray14(root: Path) -> Miniature:
    """The table with its comma at the end of each line, pictures in the folders of two archives."""
    findings = {
        "00000001_000": "Cardiomegaly",
        "00000001_001": "Cardiomegaly|Emphysema",
        "00000002_000": "No Finding",
        "00000003_000": "Hernia",
        "00000004_000": "No Finding",
    }
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,OriginalImage[Width,Height],"]
    for seed, (name, labels) in enumerate(findings.items()):
        folder = "images_001" if name < "00000003" else "images_002"
        write_picture(root / folder / "images" / f"{name}.png", seed, mode="RGBA" if seed == 2 else "L")
        rows.append(f"{name}.png,{labels},0,{int(name[:8])},058Y,2682,2749,")
    write_lines(root / "Data_Entry_2017.csv", rows)
    write_lines(root / "train_val_list.txt", [f"{name}.png" for name in list(findings)[:3]])
    write_lines(root / "test_list.txt", [f"{name}.png" for name in list(findings)[3:]])
    torn, listed = (
        root / "images_001" / "images" / "00000001_001.png",
        root / "images_002" / "images" / "00000003_000.png",
    )
    return Miniature(f"chestxray14:{root}", root, {"train": 3, "test": 2}, len(FINDINGS), torn, listed)


def chexpert(root: Path) -> Miniature:
    """`CheXpert-v1.0-small` with a lateral view, blanks and uncertain labels."""
    top = root / "CheXpert-v1.0-small"
    header = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS))
    rows = {
        "train": [
            ("patient00001/study1/view1_frontal.jpg", "Frontal", {"Edema": "1.0", "Fracture": "-1.0"}),
            ("patient00002/study1/view1_frontal.jpg", "Frontal", {"Cardiomegaly": "-1.0", "Edema": "0.0"}),
            ("patient00002/study1/view2_lateral.jpg", "Lateral", {"Cardiomegaly": "-1.0"}),
            ("patient00003/study2/view1_frontal.jpg", "Frontal", {}),
        ],
        "valid": [("patient64541/study1/view1_frontal.jpg", "Frontal", {"No Finding": "1.0"})],
    }
    for part, pictures in rows.items():
        lines = [header]
        for seed, (file, view, values) in enumerate(pictures):
            write_picture(top / part / file, 10 * len(part) + seed, mode="L")
            cells = ",".join(values.get(name, "") for name in OBSERVATIONS)
            lines.append(f"CheXpert-v1.0-small/{part}/{file},Female,68,{view},AP,{cells}")
        write_lines(top / f"{part}.csv", lines)
    torn = top / "train" / "patient00003" / "study2" / "view1_frontal.jpg"
    listed = top / "valid" / "patient64541" / "study1" / "view1_frontal.jpg"
    return Miniature(f"chexpert:{root}", root, {"train": 3, "val": 1}, len(OBSERVATIONS), torn, listed)


def vindr_row(image: str, reader: str | None, present: Sequence[str]) -> str:
    """A row of VinDr-CXR's tables of labels."""
    cells = [str(int(name in present)) for name in (*LOCAL, *GLOBAL)]
    return ",".join([image, *([] if reader is None else [reader]), *cells])


def vindr(root: Path) -> Miniature:
    """Three readers for each training picture and none named for test; pictures converted to JPEG."""
    names = (*LOCAL, *GLOBAL)
    train = [",".join(("image_id", "rad_id", *names))]
    for image, votes in {"a1": (["No finding"],) * 3, "b2": (["Pneumonia", "ILD"], ["Pneumonia"], ["COPD"])}.items():
        write_picture(root / "train_jpeg" / f"{image}.jpg", ord(image[0]), mode="L")
        train += [vindr_row(image, f"R{reader}", present) for reader, present in enumerate(votes)]
    write_lines(root / "annotations" / "image_labels_train.csv", train)
    test = [",".join(("image_id", *names)).replace("Other diseases", "Other disease")]
    for image, present in {"c3": ["Tuberculosis", "Edema"], "d4": ["No finding"]}.items():
        write_picture(root / "test_jpeg" / f"{image}.jpg", ord(image[0]), mode="L")
        test.append(vindr_row(image, None, present))
    write_lines(root / "annotations" / "image_labels_test.csv", test)
    torn, listed = root / "train_jpeg" / "b2.jpg", root / "test_jpeg" / "c3.jpg"
    return Miniature(f"vindr:{root}", root, {"train": 2, "test": 2}, len(GLOBAL), torn, listed)


def rib_box(value: int) -> Corners:
    """Where rib `value` (from 1) is: a bar of its own, but for R2, which overlaps R1."""
    side, place = divmod(value - 1, 10)
    x = 2 + 16 * side
    return (x, 2 * place, x + 12, 2 * place + 2) if value != 2 else (x + 6, 0, x + 14, 4)


def vindrribs(root: Path) -> Miniature:
    """Two pictures for training and one of val; paths in the annotations begin elsewhere."""
    for part, names in {"train": ("train_000", "train_001"), "val": ("val_000",)}.items():
        content: dict[str, dict[str, object]] = {"img": {}}
        for key, name in enumerate(names):
            write_picture(root / "Data" / part / "img" / f"VinDr_RibCXR_{name}.png", 10 * len(part) + key, mode="L")
            content["img"][str(key)] = f"data/{part}/img/VinDr_RibCXR_{name}.png"
            for value, rib in enumerate(RIBS, start=1):
                x1, y1, x2, y2 = rib_box(value)
                corners = [{"x": x, "y": y} for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
                missing = rib == "L10" and key == 1
                content.setdefault(rib, {})[str(key)] = "None" if missing else corners
        write_lines(root / "Data" / part / f"Vindr_RibCXR_{part}_mask.json", [json.dumps(content)])
    torn = root / "Data" / "train" / "img" / "VinDr_RibCXR_train_001.png"
    listed = root / "Data" / "val" / "img" / "VinDr_RibCXR_val_000.png"
    return Miniature(f"vindrribs:{root}", root, {"train": 2, "test": 1}, 20, torn, listed)


SIIM_ROWS = (("1.2.a", " 5 3 1021 2"), ("1.2.b", " -1"), ("1.2.a", " 2048 4"), ("1.2.c", " 0 1024"))


def siim(root: Path) -> Miniature:
    """Converted pictures; the pneumothorax of one in two rows, none in another; folders of training and of test."""
    write_lines(root / "train-rle.csv", ["ImageId, EncodedPixels", *(",".join(row) for row in SIIM_ROWS)])
    for seed, image in enumerate(("1.2.a", "1.2.b", "1.2.c")):
        folder = "train" if image != "1.2.c" else "test"
        path = root / folder / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1024, 1024), 50 * seed).save(path)  # drawing this many pixels takes a second
    write_area(root / "masks" / "1.2.a.png", block((0, 0, 1, 1)))
    torn = root / "train" / "1.2.b.png"
    return Miniature(f"siim:{root}", root, {"train": 2, "test": 1}, 1, torn, root / "train" / "1.2.a.png")


def chestxdet_entry(file: str, *found: tuple[str, Corners]) -> dict[str, object]:
    """A picture of ChestX-Det's annotations, every finding a rectangle."""
    polygons = [[[x1, y1], [x2, y1], [x2, y2], [x1, y2]] for _, (x1, y1, x2, y2) in found]
    return {
        "file_name": file,
        "syms": [name for name, _ in found],
        "boxes": [list(corners) for _, corners in found],
        "polygons": polygons,
    }


def chestxdet(root: Path) -> Miniature:
    """A small finding on a large one, the small one first; a healthy picture; a box without width."""
    entries = {
        "train": [
            chestxdet_entry("36.png", ("Nodule", (6, 6, 10, 10)), ("Consolidation", (2, 2, 20, 20))),
            chestxdet_entry("37.png"),
        ],
        "test": [chestxdet_entry("40.png", ("Pleural Thickening", (3, 3, 9, 9)), ("Fracture", (4, 4, 4, 9)))],
    }
    for part, pictures in entries.items():
        folder = root / ("train_data" if part == "train" else "test")
        for seed, entry in enumerate(pictures):
            write_picture(folder / str(entry["file_name"]), 10 * len(part) + seed, mode="L")
        write_lines(root / f"ChestX_Det_{part}.json", [json.dumps(pictures)])
    torn, listed = root / "train_data" / "37.png", root / "test" / "40.png"
    return Miniature(f"chestxdet:{root}", root, {"train": 2, "test": 1}, 13, torn, listed)


VESSELS: Corners = (4, 4, 20, 8)
VIEW: Corners = (2, 2, 30, 22)


def fundus(root: Path) -> Miniature:
    """DRIVE and CHASE_DB1 side by side."""
    for part, numbers in {"training": (21, 22), "test": (1,)}.items():
        top = root / "DRIVE" / part
        for number in numbers:
            write_picture(top / "images" / f"{number:02d}_{part}.tif", number)
            write_area(top / "1st_manual" / f"{number:02d}_manual1.gif", block(VESSELS), mode="L")
            write_area(top / "mask" / f"{number:02d}_{part}_mask.gif", block(VIEW), mode="L")
    write_area(root / "DRIVE" / "test" / "2nd_manual" / "01_manual2.gif", block((5, 5, 9, 9)), mode="P")
    for name in ("01L", "01R", "11L"):
        write_picture(root / "CHASEDB1" / f"Image_{name}.jpg", int(name[:2]) + ord(name[2]))
        write_area(root / "CHASEDB1" / f"Image_{name}_1stHO.png", block(VESSELS))
        write_area(root / "CHASEDB1" / f"Image_{name}_2ndHO.png", block((5, 5, 9, 9)))
    torn = root / "CHASEDB1" / "Image_01R.jpg"
    return Miniature(f"fundus:{root}", root, {"train": 4, "test": 2}, 1, torn)


def fundus_stare(root: Path) -> Miniature:
    """STARE, unpacked, with both observers."""
    for number in (1, 2, 77):
        write_picture(root / "STARE" / "stare-images" / f"im{number:04d}.ppm", number)
        for initials in ("ah", "vk"):
            write_area(
                root / "STARE" / f"labels-{initials}" / f"im{number:04d}.{initials}.ppm", block(VESSELS), mode="L"
            )
    return Miniature(f"fundus:{root}", root, {"": 3}, 1, root / "STARE" / "stare-images" / "im0002.ppm")


def fundus_hrf(root: Path) -> Miniature:
    """HRF, with fields of view in colour and suffixes in capitals."""
    for seed, name in enumerate(("01_dr", "01_g", "01_h")):
        write_picture(root / "images" / f"{name}.JPG", seed)
        write_area(root / "manual1" / f"{name}.tif", block(VESSELS), mode="L")
        write_area(root / "mask" / f"{name}_mask.tif", block(VIEW), mode="RGB")
    return Miniature(f"fundus:{root}", root, {"": 3}, 1, root / "images" / "01_g.JPG")


def eyepacs(root: Path) -> Miniature:
    """Both eyes of two persons for training, one of a third with the table of test."""
    tables = {
        "train": ("trainLabels.csv", "image,level", ["10_left,0", "10_right,2", "13_left,4", "13_right,0"]),
        "test": ("retinopathy_solution.csv", "image,level,Usage", ["1_left,1,Private"]),
    }
    for part, (table, header, rows) in tables.items():
        write_lines(root / table, [header, *rows])
        for seed, row in enumerate(rows):
            write_picture(root / part / f"{row.partition(',')[0]}.jpeg", 10 * len(part) + seed)
    torn, listed = root / "train" / "13_left.jpeg", root / "test" / "1_left.jpeg"
    return Miniature(f"eyepacs:{root}", root, {"train": 4, "test": 1}, 5, torn, listed)


MAKERS: dict[str, list[Maker]] = {
    "cxrmasks": [cxrmasks, cxrmasks_jsrt],
    "jsrt": [jsrt, jsrt_nodules],
    "montgomery": [montgomery],
    "shenzhen": [shenzhen],
    "chestxray14": [chestxray14],
    "chexpert": [chexpert],
    "vindr": [vindr],
    "vindrribs": [vindrribs],
    "siim": [siim],
    "chestxdet": [chestxdet],
    "fundus": [fundus, fundus_stare, fundus_hrf],
    "eyepacs": [eyepacs],
}
"""Kind -> the layouts it reads."""
