"""The recipes that come with foveal: how many, what their rows may differ in, their networks and parameters, two steps."""

import collections
import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.recipes.load import find_recipes, list_recipes, load_recipe, load_row
from foveal.recipes.schema import Quoted, Recipe
from foveal.training import build, fit

TABLES = {  # rows to train, rows that are published only
    "quickstart": (5, 0),
    "vessels": (7, 0),
    "lpsc/table1a": (18, 0),
    "lpsc/table1b": (14, 0),
    "lpsc/table2": (7, 0),
    "lpsc/table3": (5, 0),
    "lpsc/table4": (4, 2),
    "lpsc/table5": (7, 6),
    "lpsc/ablation_reduce": (7, 0),
    "lpsc/ablation_radius": (5, 0),
    "lpsc/ablation_radial_bins": (4, 0),
    "lpsc/ablation_angular_bins": (4, 0),
    "lpsc/ablation_growth": (4, 0),
    "acn/table2": (28, 8),
    "acn/table3": (3, 3),
    "acn/table4": (8, 3),
    "acn/table5": (6, 7),
    "acn/table6": (4, 2),
    "acn/table8": (6, 8),
    "acn/table8_shapes": (4, 0),
    "acn/control_variates": (5, 0),
    "acn/table7": (4, 0),
    "acn/table9": (8, 0),
    "acn/table10": (4, 0),
    "acn/table11": (10, 0),
    "acn/figure7": (4, 0),
    "acn/figure8": (4, 0),
    "acn/figure10": (6, 0),
    "acn/figure12": (4, 0),
    "acn/figure13": (2, 0),
}
SEGMENTED = ("vessels", "lpsc/table4", "lpsc/table5")
ALL = [name for name in list_recipes() if not name.startswith("quickstart/")]
TRAINED = [name for name in list_recipes() if isinstance(load_row(find_recipes(name)[0]), Recipe)]
CLASSIFIED = [name for name in TRAINED if load_recipe(find_recipes(name)[0]).task.name == "classification"]
"""The rows of other tasks are built and trained in their tasks' tests."""
ROW_ONLY = {"name", "title", "note", "row", "convert", "published", "baseline", "claims"}
"""What tells the rows of any table apart: what they are called, the plan, the published number."""

VARIES = {
    "vessels": {"model.widths"},
    # The paper compares networks and data sets within one table.
    "lpsc/table1a": {"model.name", "data.name", "quick"},
    "lpsc/table1b": {"data.name", "quick"},
    "lpsc/table4": {"model.name"},
    "lpsc/table5": {"model.name", "model.backbone_weights", "quick"},
    "acn/table2": {
        "model.name", "model.batch_norm", "model.dropout", "data.name", "data.augment.pad", "quick",
    },
    "acn/table11": {
        "model.name", "model.batch_norm", "model.dropout", "data.name", "data.download", "data.augment.pad",
        "data.augment.crop", "data.size", "data.resize", "data.workers", "train.epochs", "train.batch_size",
        "train.weight_decay", "train.milestones", "train.gamma", "quick",
    },
    "acn/table6": {"model.name"},
    "acn/table8": {"model.name", "train.lr_factors", "train.lr_factors.roi_heads.box_roi_pool.pool.offset_fc.*"},
    "acn/control_variates": {"train.alternate"},
    # Other authors' networks and Cutout beside WRN and VGG.
    "acn/table3": {"data.augment.cutout", "quick"},
    "acn/table4": {"model.name", "model.batch_norm", "model.dropout", "quick"},
    "acn/table5": {
        "model.name", "model.dropout", "model.aux_logits", "model.init_weights", "data.augment.cutout", "quick",
    },
}  # fmt: skip
CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "stl10": 10,
    "svhn": 10,
    "mnist": 10,
    "mnist5k": 10,
    "folder": 1000,
    "voc_aug": 21,
    "drive": 1,
}


def table_of(name):
    return name.rpartition("/")[0]


@functools.cache
def rows(table):
    return [load_row(path) for path in find_recipes(table)]


def trained(table):
    return [row for row in rows(table) if isinstance(row, Recipe)]


def flat(row):
    """A row's values under dotted keys; a plan and a quick form are one value each."""
    found = {}

    def add(value, *path):
        if isinstance(value, dict) and value and path not in {("convert",), ("quick",), ("published",), ("statistic",)}:
            for key, inner in value.items():
                add(inner, *path, key)
        else:
            found[".".join(path)] = value

    add(row.model_dump())
    return found


def different(some):
    values = [flat(row) for row in some]
    return {
        key
        for key in {key for one in values for key in one}
        if any(one.get(key) != values[0].get(key) for one in values)
    }


def network(row):
    if getattr(row.model, "backbone_weights", None):  # nothing is downloaded
        fresh = row.model.model_copy(update={"backbone_weights": None})
        row = row.model_copy(update={"model": fresh})
    with torch.device("meta"):
        return build(row, num_classes=CLASSES[row.data.name], in_channels=1 if "mnist" in row.data.name else 3)


def test_every_recipe_is_counted():
    found = collections.Counter(
        (table_of(name), isinstance(load_row(find_recipes(name)[0]), Quoted)) for name in list_recipes()
    )
    assert {table: (found[table, False], found[table, True]) for table in dict.fromkeys(t for t, _ in found)} == TABLES
    assert len(ALL) == sum(map(sum, TABLES.values())) - 5 == 235


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_table_differ_in_what_it_compares(table):
    assert different(trained(table)) <= ROW_ONLY | VARIES.get(table, set())
    assert sorted(row.row for row in rows(table)) == list(range(1, len(rows(table)) + 1))
    for key in VARIES.get(table, ()):
        assert key in different(trained(table)), f"{key} need not be listed for {table}"


@pytest.mark.parametrize("table", [table for table in TABLES if table != "quickstart"])
def test_a_converted_row_is_its_baseline_but_for_the_plan(table):
    by_name = {row.name: row for row in trained(table)}
    compared = [row for row in by_name.values() if row.baseline]
    assert compared
    for row in compared:
        allowed = ROW_ONLY
        if row.model.name == "cifar_vgg19_bn_stem":  # the paper's added layer needs its place
            allowed = ROW_ONLY | {"model.name"}
        if table == "acn/control_variates":  # how it is trained is what is compared
            allowed = ROW_ONLY | {"train.alternate"}
        if row.name == "log_polar_all_narrow":  # as many parameters as its baseline
            allowed = ROW_ONLY | {"model.widths"}
        if row.train.lr_factors:  # what the plan put in learns at a rate of its own
            allowed = ROW_ONLY | VARIES[table]
        assert different([by_name[row.baseline], row]) <= allowed, row.name
        assert (row.convert, row.model) != (by_name[row.baseline].convert, by_name[row.baseline].model), row.name
        assert by_name[row.baseline].baseline is None


def test_what_the_papers_state_is_of_rows_that_are_there():
    count = collections.Counter()
    for table in TABLES:
        names = {row.name for row in trained(table)}
        for row in trained(table):
            for claim in row.claims:
                assert claim.other in names - {row.name}
                count[table] += 1
            both = [(row.published, other.published) for claim in row.claims if claim.above
                    for other in trained(table) if other.name == claim.above]  # fmt: skip
            for mine, theirs in both:  # what is printed as numbers is stated the right way round
                if mine and theirs:
                    key = row.make_task().metrics[0].name
                    assert mine.numbers()[key][0] > theirs.numbers()[key][0], row.name
    assert count.total() == 113
    assert {table for table in TABLES if table.startswith("acn/")} - set(count) == {
        *("acn/table7", "acn/table8_shapes", "acn/control_variates", "acn/figure8"),
    }, "of which the text orders no headline"


@pytest.mark.parametrize("name", CLASSIFIED)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_builds_and_keeps_the_size(name, timm):
    row = load_recipe(find_recipes(name)[0])
    size = row.data.size or row.data.resize or {"stl10": [96, 96], "mnist5k": [28, 28]}.get(row.data.name, [32, 32])
    at_once = row.train.model_copy(update={"alternate": None})
    converted, plain = network(row), network(row.model_copy(update={"convert": {}, "train": at_once}))
    image = torch.empty(2, 1 if "mnist" in row.data.name else 3, *size, device="meta")
    maps = size if table_of(name) in SEGMENTED else ()
    assert converted.eval()(image).shape == (2, CLASSES[row.data.name], *maps)
    shapes = []
    for model in (converted, plain):
        places = [place for place in row.convert if "*" not in place]
        for place in places:
            model.get_submodule(place).register_forward_hook(lambda _, __, out: shapes.append(out.shape))
        model.eval()(image)
    stem = any(spec["layer"] == "conv" for spec in row.convert.values())  # a stem for small images is meant to differ
    assert stem or shapes[: len(shapes) // 2] == shapes[len(shapes) // 2 :]


PARAMETERS = {  # theirs, and the redundant biases of the authors' layers that ours have not
    "lpsc/table1a/alexnet_c10": (2_472_266, 0),
    "lpsc/table1a/alexnet_c10_dilated": (2_343_242, 0),
    "lpsc/table1a/alexnet_c10_lpsc": (2_306_634, 256),
    "lpsc/table1a/alexnet_c100": (2_495_396, 0),
    "lpsc/table1a/alexnet_c100_dilated": (2_366_372, 0),
    "lpsc/table1a/alexnet_c100_lpsc": (2_329_764, 256),
    "lpsc/table1a/vgg19_c10": (20_040_522, 0),
    "lpsc/table1a/vgg19_c10_dilated": (20_078_922, 0),
    "lpsc/table1a/vgg19_c10_lpsc": (20_078_410, 64),
    "lpsc/table1a/vgg19_c100": (20_086_692, 0),
    "lpsc/table1a/vgg19_c100_dilated": (20_125_092, 0),
    "lpsc/table1a/vgg19_c100_lpsc": (20_124_580, 64),
    "lpsc/table1a/vgg19_c10_stem": (20_040_522 + 3 * 9 * 64 + 64 + 128 + 61 * 9 * 64, 0),
    "lpsc/table1a/alexnet_c100_lpsc_printed": (2_329_764, 256),
    "lpsc/table1b/resnet20_c10_lpsc_cc_printed": (273_626, 32),
    "lpsc/table3/lpsc_cc_25_paper": (11_696_616, 64),
    "lpsc/table1b/resnet20_c10": (272_474, 0),
    "lpsc/table1b/resnet20_c10_dilated": (272_810, 0),
    "lpsc/table1b/resnet20_c10_lpsc": (272_698, 32),
    "lpsc/table1b/resnet20_c10_lpsc_cc": (274_146, 40),
    "lpsc/table1b/resnet20_c10_lpsc_cc_paper": (273_626, 32),
    "lpsc/table1b/resnet20_c100": (278_324, 0),
    "lpsc/table1b/resnet20_c100_dilated": (278_660, 0),
    "lpsc/table1b/resnet20_c100_lpsc": (278_548, 32),
    "lpsc/table1b/resnet20_c100_lpsc_cc": (279_996, 40),
    "lpsc/table1b/resnet20_c100_lpsc_cc_paper": (273_626 + 5_850, 32),
    "lpsc/table2/conv": (1_736_564, 0),
    "lpsc/table2/dilated": (1_736_900, 0),
    "lpsc/table2/lpsc": (1_736_788, 32),
    "lpsc/table2/lpsc_cc": (1_746_036, 160),
    "lpsc/table2/lpsc_cc_paper": (1_731_866 + 5_850, 32),
    "lpsc/table3/conv": (11_689_512, 0),
    "lpsc/table3/lpsc": (11_685_032, 128),
    "lpsc/table3/lpsc_cc_25": (11_696_616, 64),
    "lpsc/table3/lpsc_cc_50": (11_703_720, 128),
    "lpsc/table4/deeplabv3plus": (5_225_717, 0),
    "lpsc/table4/deeplabv3plus_lpsc": (5_799_413, 256),
    "lpsc/table5/cenet": (29_003_093, 0),
    "lpsc/table5/cenet_lpsc_1": (31_101_269, 1_024),
    "lpsc/table5/cenet_lpsc_2": (37_392_725, 1_024),
    "lpsc/table5/cenet_lpsc_2_no_center": (36_867_413, 0),
    "acn/table2/vgg16_c10": (33_638_218 + 8_448, 0),
    "acn/table2/vgg16_gap_c10": (14_728_266, 0),
    "acn/table2/vgg16_gap_c100_plus": (14_774_436, 0),
    "acn/table2/acn_vgg16_c100_plus": (14_774_436 + 41_490, 0),  # offsets of one scale on 256 channels
    "acn/table2/resnet18_c10_plus": (11_173_962, 0),
    "acn/table2/resnet18_c100": (11_220_132, 0),
    "acn/table2/acn_resnet18_c100": (11_220_132 + 41_490, 0),
    "acn/table2/wrn_c10": (36_479_194, 0),
    "acn/table2/wrn_c100": (36_536_884, 0),
    "acn/table2/acn_wrn_c10": (36_479_194 + 162 * 320 + 18, 0),
    "acn/table3/wrn": (10_961_370, 0),
    "acn/table3/acn_wrn": (10_961_370 + 41_490, 0),
    "acn/table4/lenet5": (61_706, 0),
    "acn/table6/drn_d_22": (16_393_752, 0),
    "acn/table6/acn_drn_d_22": (16_393_752 + 3 * 82_962, 0),  # layer7 is dilated, so both its scales have offsets
    "acn/table6/drn_c_26": (21_126_584, 0),
    "acn/table6/acn_drn_c_26": (21_126_584 + 3 * 82_962, 0),
    "acn/table7/drn_c_26": (21_126_584, 0),
    "acn/table7/dilated_drn_c_26": (21_126_584, 0),
    "acn/table7/deformable_drn_c_26": (21_126_584 + 2 * 82_962, 0),
    "acn/table7/acn_drn_c_26": (21_126_584 + 3 * 82_962, 0),
    "acn/control_variates/joint": (
        14_728_266 - 1_152 + 41_490 + 9 * 256 + 1,
        0,
    ),  # gray images; a scale besides offsets
    "acn/control_variates/joint_floor": (14_728_266 - 1_152 + 41_490 + 9 * 256 + 1, 0),
    "acn/table9/best": (14_774_436 + 41_490, 0),
    "acn/table9/scale_1": (14_774_436, 0),
    "acn/table9/scales_1_2_4": (14_774_436 + 2 * 41_490, 0),
    "acn/table9/scales_1_2_3_4": (14_774_436 + 3 * 41_490, 0),
    "acn/table9/no_offset": (14_774_436, 0),
    "acn/table9/concat": (14_774_436 + 41_490 + 2 * 256 * 256, 0),
    "acn/table10/dilated": (14_774_436, 0),
    "acn/table10/deformable": (14_774_436 + 41_490, 0),
    "acn/figure8/anisotropic": (10_961_370 + 41_490, 0),
    "acn/figure10/position_1_3": (10_961_370 + 41_490 + 82_962, 0),
    "acn/figure12/position_1": (16_393_752 + 2 * 82_962, 0),
    "acn/figure12/position_2": (16_393_752 + 82_962, 0),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name, torchvision):
    theirs, redundant = PARAMETERS[name]
    found = sum(p.numel() for p in network(load_recipe(find_recipes(name)[0])).parameters())
    assert found + redundant == theirs


def test_the_printed_geometry_has_the_weights_of_the_codes():
    """Rows with the geometry as printed are the rows of the authors' code but for it, and both state the number."""
    found = 0
    for table in ("lpsc/table1a", "lpsc/table1b", "lpsc/table2"):
        by_name = {row.name: row for row in trained(table)}
        for name, row in by_name.items():
            if not name.endswith("_printed"):
                continue
            found += 1
            code = by_name[name.replace("_cc_printed", "_cc_paper").replace("_printed", "")]
            assert different([row, code]) - {"claims"} == {"name", "title", "row", "convert"}
            assert row.published == code.published
            for place, spec in row.convert.items():
                theirs = {**code.convert[place], "growth_rate": spec["growth_rate"] ** 2, "support": "square"}
                assert code.convert[place] == {**theirs, "count_center": True}
                assert spec["support"] == "disk"
            assert [p.shape for p in network(row).parameters()] == [p.shape for p in network(code).parameters()]
    assert found == 10


def test_mnist_has_the_papers_images_and_is_not_quick():
    rows = [*trained("acn/table4"), *trained("acn/control_variates")]
    assert {(row.data.limit, row.is_quick) for row in rows} == {(50_000, False)}
    path = find_recipes("acn/table4/acn_vgg16")[0]
    whole = load_recipe(path, ["data.limit=null"])
    assert (whole.name, whole.differences) == ("acn_vgg16-changed", ["data.limit nothing instead of 50000"])


PUBLISHED = {  # accuracy and deviation, as printed in the log-polar paper
    "table1a/alexnet_c10": (77.43, 0.25),
    "table1a/alexnet_c10_dilated": (75.42, 0.06),
    "table1a/alexnet_c10_lpsc": (78.44, 0.12),
    "table1a/alexnet_c100": (43.98, 0.43),
    "table1a/alexnet_c100_dilated": (44.43, 0.10),
    "table1a/alexnet_c100_lpsc": (47.43, 0.20),
    "table1a/vgg19_c10": (93.54, 0.06),
    "table1a/vgg19_c10_dilated": (93.46, 0.14),
    "table1a/vgg19_c10_lpsc": (93.92, 0.06),
    "table1a/vgg19_c100": (72.41, 0.17),
    "table1a/vgg19_c100_dilated": (73.03, 0.34),
    "table1a/vgg19_c100_lpsc": (73.13, 0.12),
    "table1b/resnet20_c10": (91.66, 0.13),
    "table1b/resnet20_c10_dilated": (91.44, 0.10),
    "table1b/resnet20_c10_lpsc": (91.81, 0.21),
    "table1b/resnet20_c10_lpsc_cc": (92.01, 0.08),
    "table1b/resnet20_c10_lpsc_cc_paper": (92.01, 0.08),
    "table1b/resnet20_c100": (67.56, 0.27),
    "table1b/resnet20_c100_dilated": (66.90, 0.25),
    "table1b/resnet20_c100_lpsc": (67.63, 0.27),
    "table1b/resnet20_c100_lpsc_cc": (68.09, 0.27),
    "table1b/resnet20_c100_lpsc_cc_paper": (68.09, 0.27),
    "table2/conv": (73.50, 0.24),
    "table2/dilated": (73.75, 0.48),
    "table2/lpsc": (73.54, 0.38),
    "table2/lpsc_cc": (74.13, 0.14),
    "table2/lpsc_cc_paper": (74.13, 0.14),
    "table3/conv": (69.86, 0.082),
    "table3/lpsc": (69.96, 0.081),
    "table3/lpsc_cc_25": (69.95, 0.079),
    "table3/lpsc_cc_25_paper": (69.95, 0.079),
    "table1a/vgg19_c10_stem": None,  # a control of ours
    "table1a/vgg19_c100_stem": None,
    "table3/lpsc_cc_50": None,  # only in the authors' repository
}


PUBLISHED |= {
    name.replace("_cc_paper", "_cc") + "_printed": numbers
    for name, numbers in PUBLISHED.items()
    if name.startswith(("table1a", "table1b", "table2")) and name.endswith(("lpsc", "lpsc_cc_paper"))
}


def test_published_numbers_of_the_log_polar_paper():
    found = {}
    for table in ("table1a", "table1b", "table2", "table3"):
        for row in trained(f"lpsc/{table}"):
            published = row.published
            found[f"{table}/{row.name}"] = (published.accuracy, published.std) if published else None
            assert published is None or published.source.startswith(
                "Log-Polar Space Convolution (NeurIPS 2022), Table "
            )
    assert found == PUBLISHED


PRINTED = {  # Tables 4 and 5, in percent: oAcc, mAcc, fAcc, mIoU; Sen, Acc, AUC
    "table4/deeplabv3_reported": (None, None, None, 70.1),
    "table4/deeplabv3plus_reported": (None, None, None, 71.1),
    "table4/deeplabv3plus": (92.30, 83.32, 86.52, 71.44),
    "table4/deeplabv3plus_lpsc": (92.73, 83.88, 87.14, 72.60),
    "table5/hed": (73.64, 94.34, 97.23),
    "table5/azzopardi": (76.55, 94.42, 96.14),
    "table5/zhao": (74.20, 95.40, 86.20),
    "table5/unet_reported": (75.37, 95.31, 96.01),
    "table5/deep_vessel": (76.03, 95.23, 97.52),
    "table5/cenet_reported": (83.09, 95.45, 97.79),
    "table5/cenet": ((82.66, 1.06), (95.50, 0.09), (97.82, 0.08)),
    "table5/cenet_lpsc_1": ((83.00, 0.79), (95.52, 0.11), (97.82, 0.08)),
    "table5/cenet_lpsc_2": ((83.12, 0.75), (95.48, 0.11), (97.84, 0.07)),
}


def test_published_numbers_of_segmentation():
    found = {}
    for table, names in (("table4", ("oacc", "macc", "facc", "miou")), ("table5", ("sen", "acc", "auc"))):
        for row in rows(f"lpsc/{table}"):
            if row.published:
                assert f"(NeurIPS 2022), Table {table[-1]}" in row.published.source
                numbers = row.published.numbers()
                each = [numbers.get(name, (None, None)) for name in names]
                found[f"{table}/{row.name}"] = tuple(n if n[1] is not None else n[0] for n in each)
    assert found == PRINTED


def test_the_text_of_the_anisotropic_paper_has_one_number():
    tables = [table for table in TABLES if table.startswith("acn/")]
    found = {f"{table}/{row.name}": row.published for table in tables for row in trained(table) if row.published}
    assert {name: published.numbers() for name, published in found.items()} == {
        "acn/table4/acn_vgg16": {"accuracy": (99.84, None)}
    }


def test_runs_are_repeated_and_measured_as_the_papers_say():
    for table in ("lpsc/table1a", "lpsc/table1b", "lpsc/table2"):
        assert {(row.seeds, row.statistic) for row in trained(table)} == {(5, "best")}
    assert {(row.seeds, str(row.statistic)) for row in trained("lpsc/table3")} == {(1, "{'mean_of_last': 10}")}
    assert {(row.seeds, row.statistic) for row in trained("lpsc/table5")} == {(10, "last")}
    repeated = {table: {row.published.n for row in trained(f"lpsc/{table}") if row.published} for table in RUNS}
    assert repeated == {table: {n} for table, n in RUNS.items()}


RUNS = {"table1a": 5, "table1b": 5, "table2": 5, "table3": None, "table4": None, "table5": 10}


@pytest.mark.parametrize("name", TRAINED)
def test_a_packaged_row_is_its_own_experiment(name):
    """So its runs may stand beside the published number; what is changed takes that away, and putting it back gives it."""
    path = find_recipes(name)[0]
    row = load_recipe(path)
    assert not row.differences
    assert row.is_quick == (row.form == "quick")
    assert row.comparable == (None if row.is_quick else row.published)
    if getattr(row.model, "backbone_weights", None):
        fresh = load_recipe(path, ["model.backbone_weights=null"])
        named = row.model.backbone_weights
        assert fresh.differences == [f"model.backbone_weights nothing instead of {named!r}"]
        assert fresh.comparable is None
        assert load_recipe(path, [f"model.backbone_weights={named}"]).comparable == row.published


def test_the_published_networks_of_segmentation_start_from_imagenet():
    for table, without in (("lpsc/table4", set()), ("lpsc/table5", {"unet"})):
        weights = {row.name: getattr(row.model, "backbone_weights", None) for row in trained(table)}
        assert {name for name, there in weights.items() if there is None} == without
        assert set(weights.values()) <= {"IMAGENET1K_V1", None}
    for row in trained("lpsc/table5"):
        train = row.train
        assert (train.schedule, train.patience, train.early_stop, train.min_lr, train.gamma) == (
            *("plateau", 10, 20, 5e-7, 0.5),
        )


@pytest.mark.parametrize("name", ALL)
def test_quick_form(name):
    row = load_row(find_recipes(name)[0])
    if isinstance(row, Quoted):
        assert row.published.source
        return
    if row.form == "quick":  # it has no full form
        assert row.quick is None
        return
    quick = load_recipe(find_recipes(name)[0], quick=True)
    assert quick.form == "quick"
    assert quick.comparable is None
    narrower = {"width": 0.25} if quick.model != row.model else {}
    if table_of(name) in SEGMENTED:
        said = ("width", "norm_momentum", "backbone_weights")
        narrower = {key: value for key, value in quick.model.model_dump().items() if key in said}
    if row.task.name == "detection":
        narrower = {"backbone_weights": None, "min_size": 320, "max_size": 512}
    assert (quick.model.model_dump(), quick.convert) == (row.model.model_dump() | narrower, row.convert)
    assert (quick.data.root or "").startswith("$FOVEAL_DATA"), "the user says where the stand-in data is"
    assert not quick.data.download
    if table_of(name) in SEGMENTED:  # all of two small sets
        return
    assert quick.data.limit is not None
    assert quick.data.limit * quick.train.epochs <= 80_000
    assert quick.train.epochs < row.train.epochs


def test_the_page_of_the_tables_lists_them_all():
    page = (Path(__file__).parent.parent / "docs" / "tables.md").read_text()
    listed = re.findall(r"^\| `(vessels|(?:lpsc|acn)/\w+)` \|.*\| (\d+)(?: \+ (\d+))? \|$", page, flags=re.MULTILINE)
    assert {name: (int(own), int(quoted or 0)) for name, own, quoted in listed} | {"quickstart": (5, 0)} == TABLES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Noise of three sizes: four images to train on, two to test, of two classes."""
    home = tmp_path_factory.mktemp("tiny")
    draw = np.random.default_rng(0)
    for channels, side in ((1, 28), (3, 32), (3, 72)):
        folder = home / f"{channels}x{side}"
        folder.mkdir()
        for split, count in (("train", 4), ("test", 2)):
            images = draw.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
            np.savez(folder / f"{split}.npz", images=images, labels=np.arange(count) % 2)
    return home


@pytest.mark.parametrize(
    "name", [name if name not in ALL else pytest.param(name, marks=pytest.mark.slow) for name in CLASSIFIED]
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_two_steps(name, tiny, tmp_path):
    """Every recipe trains: its own network, plan, augmentation and optimiser, on four images."""
    path = find_recipes(name)[0]
    kind = load_recipe(path).data.name
    npz = [] if table_of(name) in SEGMENTED else ["data.name=npz"]
    changes = [*npz, "data.download=false", "data.workers=0", "train.epochs=1", "train.batch_size=2"]
    changes += ["train.schedule=constant", "train.milestones=[]", "statistic=last"]
    if table_of(name) in SEGMENTED:
        drawn = ["data.name=shapes_masks", "data.root=null", "data.limit=4", "data.resize=[192, 192]", "data.size=null"]
        row = load_recipe(path, [*changes, *drawn, "data.augment.crop=centre", "data.augment.scale=null"])
        result = fit(row, tmp_path, device="cpu")
        assert 0 <= result[f"test_{row.make_task().metrics[0].name}"] <= 1
        return
    shape = {"mnist": "1x28", "mnist5k": "1x28", "folder": "3x72"}.get(kind, "3x32")
    if kind == "folder":
        changes += ["data.size=64", "data.resize=72"]
    row = load_recipe(path, [*changes, f"data.root={tiny / shape}"])
    result = fit(row, tmp_path, device="cpu")
    assert result["test_n"] == 2
    assert np.isfinite([result["train_loss"], result["test_loss"]]).all()
    assert result["params"] == sum(p.numel() for p in build(row, num_classes=2, in_channels=int(shape[0])).parameters())
