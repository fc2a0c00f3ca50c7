"""How numbers are written for people, and what each metric of METRICS.md means in one line. No layout here."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "–"

CORRUPTIONS = {
    "gaussian_noise": "normal noise",
    "shot_noise": "photon noise",
    "impulse_noise": "black and white specks",
    "defocus_blur": "a blur by a disk",
    "glass_blur": "pixels copied to near places",
    "motion_blur": "a smear along a line",
    "zoom_blur": "a zoom",
    "snow": "snow",
    "frost": "frost",
    "fog": "fog",
    "brightness": "raised brightness",
    "contrast": "reduced contrast",
    "elastic_transform": "elastic bending",
    "pixelate": "fewer pixels",
    "jpeg_compression": "JPEG",
}

# Suite and metric, without the variant between them: what it says, for somebody who meets it for the first time.
MEANINGS: dict[str, str] = {
    "classification/top1": "share of pictures whose most probable class is the right one",
    "classification/top5": "share of pictures with the right class among the five most probable",
    "classification/nll": "mean negative log likelihood of the right class (lower is better)",
    "classification/ece": "calibration error: mean gap of confidence and accuracy in 15 bins (lower is better)",
    "localization/max_box_acc_50": "share of pictures whose box reaches IoU 0.5, threshold from validation",
    "localization/max_box_acc_v2": "share of pictures with a fitting box among all contours, mean of IoU 0.3, 0.5, 0.7",
    "localization/gt_known": "share of pictures whose box (threshold 0.15) has IoU above 0.5, class given",
    "localization/top1_loc": "share of pictures with the class right and the box's IoU above 0.5",
    "localization/pxap": "area under the pixels' precision-recall curve over all thresholds",
    "ood/auroc": "how often a test picture has a higher score than a foreign one",
    "ood/aupr_in": "area under precision and recall, test pictures as positives",
    "ood/aupr_out": "area under precision and recall, foreign pictures as positives",
    "ood/tnr95": "share of foreign pictures refused where 95 % of the test pictures are let through",
    "ood/fpr95": "share of foreign pictures let through with 95 % of the test pictures (lower is better)",
    "ood/detection_accuracy": "best mean of both shares named right, over all thresholds",
    "robustness/fgsm_top1": "top-1 after one signed gradient step of 8/255: a weak attack, read pgd_top1 beside it",
    "robustness/pgd_top1": "top-1 after 20 projected gradient steps within 8/255, the worst of 5 restarts",
    "robustness/corruption_top1": "top-1 on corrupted pictures, mean of 15 corruptions at 5 severities",
    "robustness/occlusion_centre_top1": "top-1 with the middle covered, mean over nine sizes of the hole",
    "robustness/occlusion_boundary_top1": "top-1 with all but the middle covered, mean over nine sizes",
    "robustness/between_mixup_neither": "share of blends of two pictures named neither class (lower is better)",
    "robustness/between_cutmix_neither": "share of pictures with a hole into another named neither class (lower is better)",
    **{
        f"robustness/{name}_top1": f"top-1 on pictures with {what}, mean of 5 severities"
        for name, what in CORRUPTIONS.items()
    },
    "segmentation/miou": "mean intersection over union of the segmentation network's masks",
    "segmentation/cam_miou": "mean intersection over union of thresholded activation maps",
    "segmentation/cam_precision": "share of the pixels that thresholded maps give a class which have it, mean of classes",
    "segmentation/cam_recall": "share of a class's pixels that thresholded maps find, mean of classes",
    "segmentation/pseudo_miou": "mean intersection over union of the training pictures' pseudo masks",
    "karyotype/type_top1": "share of chromosomes whose most probable type is the right one",
    "karyotype/type_f1": "F1 of the types, mean over those that are there or were named",
    "karyotype/polarity_top1": "share of chromosomes of which it is said rightly which way up they stand",
    "karyotype/polarity_recall_0": "share of chromosomes with the long arm up that are found so",
    "karyotype/polarity_recall_1": "share of chromosomes with the long arm down that are found so",
    "karyotype/case_accuracy": "share of a cell's chromosomes that are named right, mean of cells",
    "karyotype/dispatched_case_accuracy": "share of a cell's chromosomes right after the paper's dispatch, mean of cells",
    "karyotype/optimal_case_accuracy": "share of a cell's chromosomes right after the optimal dispatch, mean of cells",
    "karyotype/complete_case_share": "share of cells without an error",
    "karyotype/dispatched_complete_case_share": "share of cells without an error after the paper's dispatch",
    "karyotype/optimal_complete_case_share": "share of cells without an error after the optimal dispatch",
    "karyotype/undispatched_trisomy_kept": "share of true extra chromosomes that are named as such",
    "karyotype/trisomy_kept": "share of true extra chromosomes still there after the paper's dispatch",
    "karyotype/optimal_trisomy_kept": "share of true extra chromosomes still there after the optimal dispatch",
    "karyotype/warning_rate_healthy": "share of healthy cells warned of after the paper's dispatch (lower is better)",
    "karyotype/optimal_warning_rate_healthy": "share of healthy cells warned of after the optimal dispatch (lower is better)",
    "karyotype/warning_sensitivity": "share of true gains and losses warned of after the paper's dispatch",
    "karyotype/optimal_warning_sensitivity": "share of true gains and losses warned of after the optimal dispatch",
    "embedding/knn_top1": "share of pictures whose class 20 nearest neighbours vote for",
    "embedding/linear_top1": "share of pictures whose class a linear layer on the embeddings names",
    "embedding/knn_auc": "area under the ROC curve of the neighbours' vote, mean of labels",
    "embedding/linear_auc": "area under the ROC curve of a linear layer on the embeddings, mean of labels",
    "embedding/effective_rank": "how many directions the embeddings use; near 1 the encoder has collapsed",
    "embedding/compose_cosine": "cosine of a window's embedding with the mean of its parts'",
    "embedding/compose_control": "the same with the parts of the same window in other patients",
    "embedding/compose_random": "the same with the parts of other windows in other patients",
    "embedding/compose_margin": "what the cosine of whole and parts exceeds its control by",
    "embedding/compose_head_cosine": "cosine of a window's embedding with what the head makes of its parts",
    "embedding/compose_head_margin": "the same, beyond other patients' parts",
    "embedding/decompose_top1": "share of the head's slices that are nearest to their own part, of four",
    "embedding/decompose_cosine": "cosine of the head's slices with their parts",
    "embedding/interpolate_cosine": "cosine of windows between two places with the mixture of both embeddings",
    "embedding/interpolate_control": "the same with the mixture of other patients",
    "embedding/interpolate_margin": "what it exceeds that by",
    "embedding/extrapolate_cosine": "cosine of windows beyond two places with the line through both embeddings",
    "embedding/extrapolate_control": "the same with the line of other patients",
    "embedding/extrapolate_margin": "what it exceeds that by",
    "embedding/scale_cosine": "cosine of windows of different sizes about one centre",
    "embedding/scale_control": "the same with windows of other patients",
    "embedding/scale_margin": "what it exceeds that by",
    "embedding/landmark_knn_top1": "share of windows about landmarks that neighbours name right",
    "embedding/landmark_linear_top1": "share of windows about landmarks that a linear layer names right",
    "embedding/landmark_silhouette": "how close windows of one landmark lie together, from -1 to 1",
    "embedding/landmark_nmi": "how far clusters of windows are landmarks, from 0 to 1",
    "embedding/retrieval_recall_1": "share of windows whose nearest of other patients shows the same landmark",
    "embedding/retrieval_recall_5": "the same among the five nearest",
    "embedding/retrieval_recall_10": "the same among the ten nearest",
    "embedding/symmetry_cosine": "cosine of a mirrored left landmark with the right one",
    "embedding/symmetry_control": "the same with other landmarks of the right side",
    "embedding/symmetry_margin": "what it exceeds that by",
    "embedding/correspondence_error": "how far off landmarks are found in other patients, in picture sides (lower is better)",
    "embedding/pck_05": "share of landmarks found within 0.05 of the picture's side",
    "embedding/position_error": "the same distance for the landmark's mean place, without any encoder (lower is better)",
    "embedding/position_pck_05": "the same share for the landmark's mean place, without any encoder",
    "embedding/view_error": "how far off landmarks are found in a second view of the picture (lower is better)",
    "embedding/view_pck_05": "share of landmarks found within 0.05 in a second view of the picture",
    "embedding/anomaly_auroc": "how well the farthest cell tells findings from normal pictures",
    "embedding/anomaly_top_auroc": "how well the farthest 1 % of cells tell findings from normal pictures",
    **{
        f"distilled/{network}_top1": f"share of pictures that networks ({network}) trained on the set name right"
        for network in ("convnet", "alexnet", "vgg11", "resnet18")
    },
    **{
        f"distilled/{network}_top1_std": "its standard deviation over fresh networks"
        for network in ("convnet", "alexnet", "vgg11", "resnet18")
    },
    "distilled/random_top1": "the same network on as many random real pictures",
    "distilled/kcentre_top1": "the same network on as many real pictures spread by k-centre",
    "distilled/whole_top1": "the same network on all real pictures",
    "distilled/lrs": "label-robust score of DD-Ranking, between random and all real pictures",
    "distilled/ars": "augmentation-robust score of DD-Ranking, the flip counted as the augmentation",
    "distilled/unequalness": "how far synthetic pictures differ from their mirror images; 0: symmetric",
    **{
        f"embedding/fewshot_dice_{shots}": f"Dice of organs by a linear layer fitted to {shots} pictures, mean of organs"
        for shots in (3, 6, 12, 24)
    },
}
LOWER_IS_BETTER = frozenset(
    {
        *("nll", "ece", "mce", "fpr95", "loss", "unequalness"),
        *("correspondence_error", "position_error", "view_error"),
        *("warning_rate_healthy", "optimal_warning_rate_healthy"),
        *("between_mixup_neither", "between_cutmix_neither"),
    }
)
# What a reader looks for first, where a run has it.
HEADLINES = (
    "classification/top1",
    "segmentation/miou",
    "localization/max_box_acc_v2",
    "localization/top1_loc",
    "localization/gt_known",
    "localization/pxap",
    "robustness/pgd_top1",
    "robustness/corruption_top1",
    "segmentation/pseudo_miou",
    "segmentation/cam_miou",
    "karyotype/type_top1",
    "karyotype/polarity_top1",
    "karyotype/optimal_case_accuracy",
    "karyotype/optimal_complete_case_share",
    "karyotype/optimal_warning_rate_healthy",
    "distilled/fyi-flip/convnet_top1",
    "distilled/plain-flip/convnet_top1",
    "embedding/compose_margin",
    "embedding/correspondence_error",
    "embedding/fewshot_dice_3",
    "embedding/knn_top1",
    "classification/ece",
)
# Of a suite with many numbers, those whose course over training is drawn.
DRAWN = {
    "karyotype": (
        "type_top1",
        "polarity_top1",
        "dispatched_case_accuracy",
        "optimal_case_accuracy",
        "optimal_complete_case_share",
    ),
}


def meaning(metric: str) -> str:
    """One line about a metric, or nothing; a variant or `@source` between suite and name changes nothing of it."""
    parts = metric.split("/")
    return MEANINGS.get(f"{parts[0].partition('@')[0]}/{parts[-1]}", "")


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return metric.rsplit("/", 1)[-1] in LOWER_IS_BETTER


def as_float(value: Any) -> float | None:
    """A finite number, or None for anything else (a missing value, NaN, text, true or false)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def number(value: Any) -> str:
    """A number with the digits that mean something: `0.9123`, `12,345`, `3e-05`; a dash for what is none."""
    finite = as_float(value)
    if finite is None:
        return NOTHING
    if isinstance(value, int) and abs(finite) < 1e15:
        return f"{value:,}"
    size = abs(finite)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        return f"{finite:.3g}"
    if size < 10:
        return f"{finite:.4f}"
    return f"{finite:.2f}" if size < 1000 else f"{finite:,.0f}"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return (f"{value:+.4f}" if abs(value) < 10 else f"{value:+.2f}").replace("-", "−")


def duration(seconds: Any) -> str:
    """A time for people: `4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    finite = as_float(seconds)
    if finite is None or finite < 0:
        return NOTHING
    if finite < 59.95:
        return f"{finite:.1f} s"
    whole = round(finite)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(finite / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def text(value: Any) -> str:
    """Any value read from JSON or YAML as one line of text."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(text(inner) for inner in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text(inner)}" for key, inner in value.items()) or "none"
    return str(value)
