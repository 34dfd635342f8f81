"""What the report page shows of each kind of task."""

from __future__ import annotations

from mnvision.report_parts import BigNumber, Chart, Curve, NumberTable, ReportPlan, Sheet

_LOSS = Chart(
    "Loss",
    (Curve("train", "c3", "train/loss", "train loss"), Curve("val", "c4", "val/loss", "val loss")),
    least=0.01,
)

# COCO's numbers with their IoU, area of the objects, and detections a picture.
DETECTION = ReportPlan(
    figures=(BigNumber("map", "AP", "IoU 0.50:0.95"), BigNumber("map_50", "AP50", "IoU 0.50")),
    charts=(
        _LOSS,
        Chart(
            "Average precision",
            (Curve("AP", "c1", "val/map", "AP"), Curve("AP50", "c2", "val/map_50", "AP50")),
            least=0.05,
            best="AP",
        ),
    ),
    tables=(
        NumberTable(
            ("Average precision", "IoU", "area, px", "limit", "value"),
            (
                ("map", "AP", "0.50:0.95", "all", "100"),
                ("map_50", "AP50", "0.50", "all", "100"),
                ("map_75", "AP75", "0.75", "all", "100"),
                ("map_small", "AP small", "0.50:0.95", "under 32\u00b2", "100"),
                ("map_medium", "AP medium", "0.50:0.95", "32\u00b2 to 96\u00b2", "100"),
                ("map_large", "AP large", "0.50:0.95", "over 96\u00b2", "100"),
            ),
        ),
        NumberTable(
            ("Average recall", "IoU", "area, px", "limit", "value"),
            (
                ("mar_1", "AR, best 1", "0.50:0.95", "all", "1"),
                ("mar_10", "AR, best 10", "0.50:0.95", "all", "10"),
                ("mar_100", "AR, best 100", "0.50:0.95", "all", "100"),
                ("mar_small", "AR small", "0.50:0.95", "under 32\u00b2", "100"),
                ("mar_medium", "AR medium", "0.50:0.95", "32\u00b2 to 96\u00b2", "100"),
                ("mar_large", "AR large", "0.50:0.95", "over 96\u00b2", "100"),
            ),
        ),
    ),
    bars="Average precision by class",
    bar="AP",
    tick="AP50",
    pictures_note="Dashed boxes are the ground truth.",
)

CLASSIFICATION = ReportPlan(
    figures=(
        BigNumber("top1", "top-1", "accuracy"),
        BigNumber("top5", "top-5", "accuracy"),
        BigNumber("ece", "ECE", "calibration error"),
    ),
    charts=(
        _LOSS,
        Chart(
            "Accuracy",
            (Curve("top-1", "c1", "val/top1", "top-1"), Curve("top-5", "c2", "val/top5", "top-5")),
            least=0.05,
            best="top-1",
        ),
    ),
    tables=(
        NumberTable(
            ("Accuracy", "share of", "value"),
            (
                ("top1", "top-1", "pictures whose class comes first"),
                ("top5", "top-5", "pictures whose class is among the best five"),
                ("top1_per_class", "top-1 by class", "mean over the classes"),
            ),
        ),
        NumberTable(
            ("Probabilities", "what it is", "value"),
            (
                ("ece", "ECE", "mean gap of confidence and accuracy, 15 bins"),
                ("nll", "NLL", "mean negative log-probability of the right class"),
            ),
        ),
    ),
    bars="Accuracy by class",
    bar="top-1",
    tick="precision",
    pictures_note="Under each picture, the predicted class with its probability: green is right, red is wrong.",
    sheets=(
        Sheet("mistakes.jpg", "Worst mistakes", "The wrong predictions that the network was surest of."),
        Sheet("confusion.png", "Confusions", "Rows are the true classes, columns the predicted ones."),
        Sheet("calibration.png", "Calibration", "Bars below the diagonal: the network is surer than it should be."),
    ),
)

EMBEDDING = ReportPlan(
    figures=(
        BigNumber("accuracy", "pairs", "told right"),
        BigNumber("auc", "AUC", "same and different"),
        BigNumber("val_at_far_1e-3", "VAL", "at FAR 1e-3"),
        BigNumber("rank1", "rank-1", "nearest picture"),
    ),
    charts=(
        Chart("Loss", (Curve("train", "c3", "train/loss", "train loss"),), least=0.01),
        Chart(
            "Verification",
            (
                Curve("pairs", "c1", "val/accuracy", "pairs told right"),
                Curve("AUC", "c2", "val/auc", "AUC"),
            ),
            least=0.05,
            best="AUC",
        ),
    ),
    tables=(
        NumberTable(
            ("Verification", "what it is", "value"),
            (
                ("accuracy", "accuracy", "pairs told right, mean over the folds"),
                ("accuracy_std", "", "its standard deviation over the folds"),
                ("auc", "AUC", "area under the ROC curve"),
                ("eer", "EER", "where as many same pairs are refused as others accepted"),
                ("val_at_far_1e-3", "VAL", "same pairs accepted at a false accept rate of 1e-3"),
                ("val_at_far_1e-4", "VAL", "likewise, at 1e-4"),
                ("threshold", "threshold", "squared distance below which a pair is called same"),
            ),
        ),
        NumberTable(
            ("Identification", "what it is", "value"),
            (
                ("rank1", "rank-1", "pictures whose nearest other one is of their identity"),
                ("map", "mAP", "mean average precision of the nearest ones"),
            ),
        ),
    ),
    bars="Pairs told right by fold",
    bar="accuracy",
    tick="",
    bar_of="fold",
    sheets=(
        Sheet(
            "neighbours.jpg",
            "Nearest pictures",
            "Each row begins with a picture; green is another one of its identity, red is not. Squared distances.",
        ),
        Sheet("pairs.jpg", "Worst pairs", "Told wrong, farthest from the threshold first."),
        Sheet(
            "roc.png",
            "ROC curve",
            "Same pairs accepted, by the share of different ones; markers: means over the folds.",
        ),
        Sheet("distances.png", "Distances", "Of same and different pairs; left of the line a pair is called same."),
    ),
    intended_use=(
        "finding pictures of the same thing; of faces only with the consent of those shown, and never as the sole "
        "ground of a decision about them (docs/responsible-use.md)"
    ),
)

ATTRIBUTES = ReportPlan(
    figures=(
        BigNumber("mean_ap", "mean AP", "over the attributes"),
        BigNumber("balanced_accuracy", "balanced accuracy", "at 0.5"),
        BigNumber("cross_entropy", "cross-entropy", "over the attributes"),
    ),
    charts=(
        _LOSS,
        Chart(
            "Mean over the attributes",
            (
                Curve("mean AP", "c1", "val/mean_ap", "mean AP"),
                Curve("balanced", "c2", "val/balanced_accuracy", "balanced accuracy"),
            ),
            least=0.05,
            best="mean AP",
        ),
    ),
    tables=(
        NumberTable(
            ("Mean over the attributes", "what it is", "value"),
            (
                ("mean_ap", "mean AP", "area under the steps of precision by recall"),
                ("balanced_accuracy", "balanced accuracy", "mean of the right shares of present and absent, at 0.5"),
                ("cross_entropy", "cross-entropy", "binary, of the values that are known"),
            ),
        ),
    ),
    bars="Average precision by attribute",
    bar="AP",
    tick="AP of a constant answer",
    bar_of="attribute",
    pictures_note="Under each picture: green was found and is there; red was found and is not there, or was missed.",
    sheets=(Sheet("mistakes.jpg", "Worst mistakes", "The wrong answers that the network was surest of."),),
    intended_use=(
        "describing pictures; of people no evidence of who or what they are, and not for decisions about them "
        "(docs/responsible-use.md)"
    ),
)

GEOLOCATION = ReportPlan(
    figures=(
        BigNumber("within_25km", "city", "within 25 km"),
        BigNumber("within_750km", "country", "within 750 km"),
        BigNumber("median_km", "median", "km", digits=0),
    ),
    charts=(
        _LOSS,
        Chart(
            "Pictures placed",
            (
                Curve("750 km", "c1", "val/within_750km", "within 750 km"),
                Curve("25 km", "c2", "val/within_25km", "within 25 km"),
            ),
            least=0.05,
            best="750 km",
        ),
    ),
    tables=(
        NumberTable(
            ("Distance", "share of", "value"),
            (
                ("within_1km", "1 km, street", "pictures placed so near"),
                ("within_25km", "25 km, city", "pictures placed so near"),
                ("within_200km", "200 km, region", "pictures placed so near"),
                ("within_750km", "750 km, country", "pictures placed so near"),
                ("within_2500km", "2500 km, continent", "pictures placed so near"),
                ("median_km", "median, km", "of the distances"),
            ),
        ),
        NumberTable(
            ("Cells", "share of", "value"),
            (("top1", "top-1", "pictures in a cell whose cell comes first"),),
        ),
    ),
    bars="Pictures placed within a distance",
    bar="network",
    tick="best constant answer",
    bar_of="distance",
    pictures_note="Under each picture, where it was placed and how far off that is: green is within 200 km.",
    sheets=(
        Sheet("places.png", "Where pictures were placed", "Lines lead from the true place to the answer."),
        Sheet("partition.png", "Cells", "The classes: what lies outside of them cannot be answered."),
        Sheet("mistakes.jpg", "Farthest off", "The pictures that were placed farthest from the truth."),
    ),
    intended_use=(
        "a guess among the regions of the training pictures; no evidence, and not for pictures of people or homes "
        "without their consent (docs/responsible-use.md)"
    ),
)
