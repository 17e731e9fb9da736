"""Numbers of classes: means over runs, tables, lines, and which class is taken for which."""

from __future__ import annotations

from typing import Any

from foveal.reports.classes import class_tables, classes_of, confused, in_a_line
from foveal.tasks.classification import Classification
from foveal.tasks.segmentation import Segmentation
from foveal.tasks.task import Metric

NAMES = ["background", "vessel"]


def test_means_over_runs_and_summed_confusion() -> None:
    runs: list[dict[str, Any]] = [
        {"classes": NAMES, "test_class_accuracy": [1.0, None], "test_confusion": [[4, 0], [0, 0]]},
        {"classes": NAMES, "test_class_accuracy": [0.5, None], "test_confusion": [[2, 2], [0, 0]]},
        {"test_accuracy": 0.5},  # of a version that told nothing of classes
    ]
    found = classes_of(runs, Classification().per_class)
    assert found is not None
    assert found["values"] == {"class_accuracy": [0.75, None]}
    assert found["confusion"] == [[6, 2], [0, 0]]
    assert classes_of(runs[2:], Classification().per_class) is None
    assert classes_of([], Segmentation().per_class) is None


def test_a_table_for_each_metric_with_a_column_for_each_row() -> None:
    runs = [{"classes": NAMES, "test_iou": [0.951, 0.0], "test_dice": [0.975, 0.0]}]
    rows = [{"name": name, "classes": classes_of(runs, Segmentation().per_class)} for name in ("unet", "cenet")]
    rows.append({"name": "quoted", "classes": None})
    iou, dice = class_tables(rows)
    assert iou == (["IoU, % of", "unet", "cenet"], [["background", "95.10", "95.10"], ["vessel", "0.00", "0.00"]])
    assert dice[0][0] == "Dice, % of"
    many = {"name": "many", "classes": classes_of([{"classes": [str(k) for k in range(99)], "test_iou": [0.5] * 99}], Segmentation().per_class)}  # fmt: skip
    assert class_tables([many]) == []


def test_of_many_classes_a_line_tells_the_worst() -> None:
    values = [k / 100 for k in range(20)]
    line = in_a_line([f"c{k}" for k in range(20)], values, Metric("iou", "IoU"))
    assert line == "IoU is worst of 20 classes in c0 0.0%, c1 1.0%, c2 2.0%, c3 3.0%, c4 4.0%"


def test_what_is_confused_most_comes_first() -> None:
    assert confused([[5, 1, 0], [3, 2, 0], [0, 0, 4]], ["a", "b", "c"]) == [
        "b is called a 3 times of 5",
        "a is called b 1 time of 6",
    ]
