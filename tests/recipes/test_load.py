"""Recipe files: every mistake is found, all at once, each with its place and its cure."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from foveal.recipes.load import find_recipes, list_recipes, load_plan, load_recipe, load_row
from foveal.recipes.schema import Quoted, Recipe
from foveal.recipes.yaml_source import RecipeError

GOOD = Path(__file__).with_name("row.yaml").read_text()
QUOTED = """\
title: Another method
model: null
published: {error: 3.8, source: its paper}
"""


def write(folder: Path, text: str | bytes, name: str = "row.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mistakes(folder: Path, text: str | bytes, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    return [mistake.replace(f"{folder}/", "") for mistake in caught.value.mistakes]


def test_reads_every_key(tmp_path: Path) -> None:
    row = load_recipe(write(tmp_path, GOOD))
    assert (row.name, row.title, row.row) == ("row", "A row", 3)
    assert row.model.model_dump() == {"name": "small_cnn"}
    assert list(row.convert) == ["conv3", "layer1.0.conv1"]
    assert row.convert["conv3"] == {"layer": "log_polar", "growth_rate": 3.0}
    assert (row.data.size, row.data.augment.cutout, row.data.limit) == ([28, 28], 4, None)
    assert (row.train.lr, row.train.milestones, row.train.warmup_epochs) == (0.001, [4, 8], 1)
    assert row.published is not None
    assert row.published.accuracy == 76.2


# Each row: text of GOOD, what it becomes, the whole message.
MUTATIONS = [
    ("title: A row", "titel: A row", "row.yaml:1: titel: unknown key; did you mean title?"),
    ("title: A row", "title: 5", "row.yaml:1: title: must be text (got 5)"),
    ("title: A row", "name: a/b", "row.yaml:1: name: names a folder, so it cannot be 'a/b'"),
    ("title: A row", "name: ..", "row.yaml:1: name: names a folder, so it cannot be '..'"),
    ("title: A row", "name: ''", "row.yaml:1: name: must not be empty (got '')"),
    ("title: A row", "lr: 0.1", "row.yaml:1: lr: unknown key; it belongs at train.lr"),
    ("title: A row", "flip: true", "row.yaml:1: flip: unknown key; it belongs at data.augment.flip"),
    ("title: A row", "3: 4", "row.yaml:1: a key must be text, so write '3'"),
    ("title: A row", "[1]: 4", "row.yaml:1: a key must be text"),
    ("title: A row", "row: 3", "row.yaml:3: row: stands here twice (first at row.yaml:1); keep one"),
    ("row: 3", "row: 3.0", "row.yaml:3: row: must be a whole number (got 3.0)"),
    (
        "model: {name: small_cnn}",
        "model: small_cnn",
        "row.yaml:4: model: must be a mapping (key: value) (got 'small_cnn')",
    ),
    ("model: {name: small_cnn}", "model: {}", "row.yaml:4: model.name: is missing"),
    ("model: {name: small_cnn}", "# nothing", "row.yaml:1: model: is missing"),
    (
        "{layer: dilated}",
        "dilated",
        "row.yaml:7: convert.layer1.0.conv1: must be a mapping (key: value) (got 'dilated')",
    ),
    ("root: there", "root: 2", "row.yaml:10: data.root: must be text (got 2)"),
    ("root: there", "rooot: there", "row.yaml:10: data.rooot: unknown key; did you mean root?"),
    ("root: there", "download: yes", "row.yaml:10: data.download: must be true or false (got 'yes')"),
    ("root: there", "limit: 0", "row.yaml:10: data.limit: must be at least 1 (got 0)"),
    ("size: [28, 28]", "size: [28]", "row.yaml:11: data.size: must be two numbers, height and width (got [28])"),
    ("size: [28, 28]", "size: [28, 0]", "row.yaml:11: data.size[1]: must be at least 1 (got 0)"),
    ("size: [28, 28]", "size: big", "row.yaml:11: data.size: must be a list (got 'big')"),
    ("pad: 2", "pad: -1", "row.yaml:12: data.augment.pad: must be at least 0 (got -1)"),
    ("pad: 2", "mosaic: 1", "row.yaml:12: data.augment.mosaic: unknown key; valid are pad, crop, flip, cutout"),
    ("flip: true", "flip: 1", "row.yaml:12: data.augment.flip: must be true or false (got 1)"),
    ("  epochs: 10", "  epochz: 10", "row.yaml:13: train.epochs: is missing"),
    ("  epochs: 10", "  epochs: ten", "row.yaml:14: train.epochs: must be a whole number (got 'ten')"),
    ("  epochs: 10", "  epochs: [10]", "row.yaml:14: train.epochs: must be a whole number (got [10])"),
    ("  epochs: 10", "  epochs:", "row.yaml:14: train.epochs: must be a whole number (got nothing)"),
    ("  epochs: 10", "  epochs: 0", "row.yaml:14: train.epochs: must be at least 1 (got 0)"),
    ("  epochs: 10", "  epochs: 8", "row.yaml:21: train.milestones: must lie below epochs (8)"),
    ("batch_size: 32", "batch_size: true", "row.yaml:15: train.batch_size: must be a whole number (got true)"),
    ("lr: 1e-3", "lr: 0", "row.yaml:16: train.lr: must be above 0 (got 0)"),
    ("lr: 1e-3", "lr: .nan", "row.yaml:16: train.lr: must be a finite number (got nan)"),
    ("lr: 1e-3", "lr: '1e-3'", "row.yaml:16: train.lr: must be a number (got '1e-3')"),
    ("lr: 1e-3", "lr: 1:30", "row.yaml:16: train.lr: must be a number (got '1:30')"),
    ("lr: 1e-3", "lr: &a 1", ""),
    ("lr: 1e-3", "lr: *a", "row.yaml:16: aliases (*name) are not read; write the value out"),
    (
        "lr: 1e-3",
        "lr: !!python/name:os.system",
        "row.yaml:16: train.lr: the tag !!python/name:os.system is not allowed here",
    ),
    ("lr: 1e-3", "lr: !!binary aGk=", "row.yaml:16: train.lr: the tag !!binary is not allowed here"),
    ("lr: 1e-3", "lr: !!int x", "row.yaml:16: train.lr: the tag !!int is not allowed here"),
    ("momentum: 0.9", "momentum: 1.0", "row.yaml:17: train.momentum: must be below 1 (got 1.0)"),
    ("momentum: 0.9", "momentum: 0", "row.yaml:18: train.nesterov: needs a momentum above 0"),
    ("momentum: 0.9", "optimiser: sgd", "row.yaml:17: train.optimiser: unknown key; did you mean optimizer?"),
    (
        "schedule: step",
        "schedule: cosin",
        "row.yaml:20: train.schedule: must be constant or step or cosine or poly or plateau (got 'cosin'); did you mean cosine?",
    ),
    (
        "schedule: step",
        "schedule: cosine",
        "row.yaml:21: train.milestones: is for schedule: step only, here it is cosine",
    ),
    ("milestones: [4, 8]", "gamma_: 1", "row.yaml:13: train.milestones: is needed by schedule: step"),
    ("milestones: [4, 8]", "milestones: [8, 4]", "row.yaml:21: train.milestones: must rise from one to the next"),
    ("milestones: [4, 8]", "milestones: 4", "row.yaml:21: train.milestones: must be a list (got 4)"),
    (
        "milestones: [4, 8]",
        "milestones: [4, -8.5]",
        "row.yaml:21: train.milestones[1]: must be above 0 (got -8.5)",
    ),
    ("warmup_epochs: 1", "warmup_epochs: 11", "row.yaml:23: train.warmup_epochs: must not exceed epochs (10)"),
    ("label_smoothing: 0.1", "label_smoothing: 1", "row.yaml:24: train.label_smoothing: must be below 1 (got 1)"),
    (
        "amp: bfloat16",
        "amp: float",
        "row.yaml:25: train.amp: must be float16 or bfloat16 (got 'float'); did you mean float16?",
    ),
    ("ema: 0.99", "ema: 99999999999999999999", "row.yaml:26: train.ema: must be below 1 (got 1e+20)"),
    ("clip_grad_norm: 1.0", "clip_grad_norm: off", "row.yaml:27: train.clip_grad_norm: must be a number (got 'off')"),
    (
        "alternate: 2",
        "alternate: 2020-01-01",
        "row.yaml:28: train.alternate: must be a whole number (got '2020-01-01')",
    ),
    ("accuracy: 76.2", "accuracy: 762", "row.yaml:29: published.accuracy: must be at most 100 (got 762)"),
    ("accuracy: 76.2", "acuracy: 76.2", "row.yaml:29: published: holds acuracy, and the task gives accuracy"),
    (
        "accuracy: 76.2",
        "f: [1]",
        "row.yaml:29: published: holds f, which must be a number or [mean, standard deviation]",
    ),
    ("seeds: 5", "task: {name: clasification}", "row.yaml:30: task: name must be that of a task; got 'clasification'"),
    ("seeds: 5", "task: {smooth: 1}", "row.yaml:30: task: the task classification has no key 'smooth'; it has"),
    ("momentum: 0.9", "lr_factors: {a: -1}", "row.yaml:17: train.lr_factors.a: must be at least 0 (got -1)"),
    ("accuracy: 76.2, ", "", "row.yaml:29: published: must hold accuracy or error, in percent, and one of them only"),
    (
        "published: {accuracy: 76.2, std: 0.3, n: 5, source: Table 1}",
        "published: 76.2",
        "row.yaml:29: published: must be a mapping (key: value) (got 76.2)",
    ),
    ("  batch_size: 32", "\tbatch_size: 32", "row.yaml:15: a tab; YAML is indented with spaces"),
    ("  batch_size: 32", "batch_size: 32", "row.yaml:16: "),
    ("[28, 28]", "[28, 28", "row.yaml:12: "),
    ("small_cnn", "small\x00cnn", "row.yaml:4: the character '\\x00' is not allowed"),
    ("alternate: 2", "alternate: 0", "row.yaml:28: train.alternate: must be at least 1 (got 0)"),
    ("alternate: 2", "eval_every: 2", "row.yaml:31: statistic: needs every epoch measured: eval_every: 1"),
    ("root: there", "resize: [1, 2, 3]", "row.yaml:10: data.resize: must be the shorter side or [height, width] (got "),
    ("root: there", "resize: big", "row.yaml:10: data.resize: must be the shorter side or [height, width] (got 'big')"),
    ("root: there", "fraction: 1", "row.yaml:10: data.fraction: must be below 1 (got 1)"),
    ("root: there", "workers: -1", "row.yaml:10: data.workers: must be at least 0 (got -1)"),
    ("root: there", "files: {a: {bytes: -1}}", "row.yaml:10: data.files.a.bytes: must be at least 0 (got -1)"),
    (
        "root: there",
        "files: {a: {sha256: ab}}",
        "row.yaml:10: data.files.a.sha256: must be 64 hexadecimal digits (got ",
    ),
    ("root: there", "files: {a: {sha: ab}}", "row.yaml:10: data.files.a.sha: unknown key; did you mean sha256?"),
    ("pad: 2", "crop: rand", "row.yaml:12: data.augment.crop: must be centre or random or random_resized (got 'rand')"),
    ("seeds: 5", "seeds: 0", "row.yaml:30: seeds: must be at least 1 (got 0)"),
    (
        "statistic: {mean_of_last: 3}",
        "statistic: mean",
        "row.yaml:31: statistic: must be best, last or {mean_of_last: 10} (got 'mean')",
    ),
    (
        "{mean_of_last: 3}",
        "{mean_of_last: 0}",
        "row.yaml:31: statistic: must be best, last or {mean_of_last: 10} (got ",
    ),
    ("{mean_of_last: 3}", "{mean_of_last: 11}", "row.yaml:31: statistic: must not exceed epochs (10)"),
    ("baseline: conv", "baseline: 3", "row.yaml:32: baseline: must be text (got 3)"),
    ("target_loss: 0.5", "target_loss: 0", "row.yaml:33: target_loss: must be above 0 (got 0)"),
    ("target_loss: 0.5", "form: small", "row.yaml:33: form: must be full or quick (got 'small')"),
    ("target_loss: 0.5", "differs: other data", "row.yaml:33: differs: must be a list (got 'other data')"),
    (
        "target_loss: 0.5",
        "experiment: {trian.lr: 1}",
        "row.yaml:33: experiment: holds 'trian.lr', which is no setting; a",
    ),
    (
        "target_loss: 0.5",
        "experiment: {train.lt: 1}",
        "row.yaml:33: experiment: holds 'train.lt', which is no setting; a",
    ),
    ("target_loss: 0.5", "claims: [{abov: conv}]", "row.yaml:33: claims[0].abov: unknown key; did you mean above?"),
    (
        "target_loss: 0.5",
        "claims: [{above: conv, sooner: conv}]",
        "row.yaml:33: claims[0]: must be one of {above: ROW}, {above: ROW, by: 2.0}, {sooner: ROW} and {costlier: ROW}",
    ),
    ("target_loss: 0.5", "claims: [{sooner: conv, by: 2}]", "row.yaml:33: claims[0]: must be one of {above: ROW}"),
    ("accuracy: 76.2, ", "accuracy: 76.2, error: 1, ", "row.yaml:29: published: must hold accuracy or error, in"),
    ("{limit: 100, ", "{limit: 0, ", "row.yaml:35: quick.data.limit: must be at least 1 (got 0)"),
    ("{limit: 100, ", "{limti: 100, ", "row.yaml:35: quick.data.limti: unknown key; did you mean limit?"),
    ("{limit: 100, ", "{limit: 9, fraction: 0.5, ", "row.yaml:35: quick.data.fraction: is another form of limit; keep"),
    ("{epochs: 3, ", "{epochs: 2, ", "row.yaml:36: quick.train.milestones: must lie below epochs (2)"),
    (", milestones: [1, 2]", "", "row.yaml:36: quick.train.milestones: must lie below epochs (3)"),
    ("  seeds: 2", "  epochs: 2", "row.yaml:37: quick.epochs: unknown key; it belongs at quick.train.epochs"),
    ("  seeds: 2", "  seeds: many", "row.yaml:37: quick.seeds: must be a whole number (got 'many')"),
]


@pytest.mark.parametrize(("old", "new", "message"), MUTATIONS, ids=[f"{new[:40]}" for _, new, _ in MUTATIONS])
def test_each_mistake_has_place_and_cure(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    if not message:
        load_recipe(write(tmp_path, text))
        return
    found = mistakes(tmp_path, text)
    assert any(line.startswith(message) for line in found), found


def test_there_are_enough_mistakes() -> None:
    assert len([message for *_, message in MUTATIONS if message]) >= 80


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row.yaml:1: is empty; a recipe has the keys model, data and train"),
        ("# only a comment\n", "row.yaml:1: is empty; a recipe has the keys model, data and train"),
        ("- a\n- b\n", "row.yaml:1: is not a mapping; a recipe has the keys model, data and train"),
        ("a: 1\n---\na: 2\n", "row.yaml:2: "),
        (b"model: \xff\xfe\n", "row.yaml:1: is not UTF-8 text"),
        ("a: " + "[" * 3000, "row.yaml: is nested too deeply"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str | bytes, message: str) -> None:
    found = mistakes(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_steps_that_change_cannot_be_recorded(tmp_path: Path) -> None:
    text = GOOD.replace("ema: 0.99", "ema: 0.99\n  cuda_graph: true")
    message = "row.yaml:13: train: cuda_graph records one step; one with alternate changes"
    assert mistakes(tmp_path, text) == [message]


def test_keys_that_the_task_does_not_take_have_their_places(tmp_path: Path) -> None:
    text = """\
task: {name: detection}
model: {name: small_cnn}
data:
  name: shape_scenes
  resize: 40
  augment:
    flip: true
    cutout: 4
train: {epochs: 1, batch_size: 2, lr: 0.1, label_smoothing: 0.1}
quick:
  data: {download: true}
"""
    assert mistakes(tmp_path, text) == [
        "row.yaml:5: data.resize: is not for the task detection; of data it takes size",
        "row.yaml:8: data.augment.cutout: is not for the task detection; of data.augment it takes flip",
        "row.yaml:9: train.label_smoothing: is not for the task detection; it takes no such key of train",
    ]
    left = "".join(line for line in text.splitlines(keepends=True) if "cutout" not in line and "resize" not in line)
    assert mistakes(tmp_path, left.replace(", label_smoothing: 0.1", "")) == [
        "row.yaml:9: quick.data.download: is not for the task detection; of data it takes size"
    ]
    found = mistakes(tmp_path, left.replace(", label_smoothing: 0.1", "").partition("quick:")[0], ("data.resize=3",))
    assert found == ["--set data.resize=3: data.resize: is not for the task detection; of data it takes size"]


def test_all_mistakes_come_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD
    independent = [0, 5, 12, 14, 17, 20, 22, 24, 32, 41, 50, 51, 53, 54, 55, 56]
    for index in independent:
        old, new, _ = MUTATIONS[index]
        text = text.replace(old, new)
    found = mistakes(tmp_path, text, ("train.epochs=0", "nonsense", "data.augment.cutout=["))
    lines = [int(line.split(":")[1]) for line in found if line.startswith("row.yaml")]
    assert len(lines) >= len(independent) - 2
    assert lines == sorted(lines)
    assert [line.split(":")[0] for line in found[len(lines) :]].count("--set nonsense") == 1
    assert "--set train.epochs=0: train.epochs: must be at least 1 (got 0)" in found
    assert any(line.startswith("--set data.augment.cutout=[: ") for line in found)


def test_overrides(tmp_path: Path) -> None:
    sets = [
        "train.lr=1e-2",
        "train.compile=true",
        "name=other",
        "data.size=32",
        "data.root=",
        "convert.layer1.0.conv1.dilation=3",
        'convert={"layer1.*": {layer: dilated}}',
        "convert.layer1.*.dilation=4",
        "published=null",
        "model.width=64",
    ]
    row = load_recipe(write(tmp_path, GOOD), sets)
    assert (row.train.lr, row.train.compile, row.name) == (0.01, True, "other")
    assert (row.data.size, row.data.root, row.published) == ([32, 32], None, None)
    assert row.convert == {"layer1.*": {"layer": "dilated", "dilation": 4}}
    assert row.model.model_dump() == {"name": "small_cnn", "width": 64}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "--set train.lr: must look like train.lr=0.1"),
        ("=3", "--set =3: must look like train.lr=0.1"),
        ("train.epochz=3", "--set train.epochz=3: train.epochz: unknown key; did you mean epochs?"),
        ("title.x=3", "--set title.x=3: title: holds a plain value, nothing can be set inside of it"),
        ("trian.lr=3", "--set trian.lr=3: trian: unknown key; did you mean train?"),
        ("train.lr=fast", "--set train.lr=fast: train.lr: must be a number (got 'fast')"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    assert mistakes(tmp_path, GOOD, (override,)) == [message]


def test_the_quick_form(tmp_path: Path) -> None:
    full, quick = (load_recipe(write(tmp_path, GOOD), quick=quick) for quick in (False, True))
    assert (full.name, full.form, full.is_quick, full.differences) == ("row", "full", False, [])
    assert full.comparable == full.published
    assert (quick.name, quick.form, quick.is_quick) == ("row-quick", "quick", True)
    assert (quick.train.epochs, quick.train.milestones, quick.train.lr) == (3, [1, 2], 1e-3)
    assert (quick.data.limit, quick.data.augment.pad, quick.data.augment.flip) == (100, 1, True)
    assert (quick.seeds, quick.statistic) == (2, "last")
    assert quick.model.model_dump() == full.model.model_dump() | {"width": 0.25}
    assert quick.differences == [
        "data.augment.pad 1 instead of 2",
        "data.limit 100 instead of nothing",
        "train.epochs 3 instead of 10",
        "train.milestones [1, 2] instead of [4, 8]",
        "model.width 0.25 instead of nothing",
    ]
    assert (quick.comparable, quick.published) == (None, full.published)
    assert load_recipe(write(tmp_path, quick.dump(), "run.yaml")) == quick
    changed = load_recipe(write(tmp_path, GOOD), ["train.epochs=4", "train.milestones=[2]"], quick=True)
    assert (changed.name, changed.train.epochs) == ("row-quick", 4)
    with pytest.raises(RecipeError, match=r"--set train.epochs=0: train.epochs: must be at least 1"):
        load_recipe(write(tmp_path, GOOD), ["train.epochs=0"], quick=True)
    with pytest.raises(RecipeError, match=r"quick: is missing, so there is no quick form; add quick: {data"):
        load_recipe(write(tmp_path, GOOD.partition("quick:")[0]), quick=True)


def test_what_is_set_is_set_in_the_full_form(tmp_path: Path) -> None:
    """The quick form has milestones of its own, which another schedule has no place for."""
    row = load_recipe(write(tmp_path, GOOD), ["train.schedule=cosine", "train.milestones=[]"])
    assert (row.train.schedule, row.train.milestones) == ("cosine", [])
    assert row.quick is not None


@pytest.mark.parametrize(
    ("overrides", "name", "differs"),
    [
        (["data.name=cifar10"], "row-changed", ["data.name 'cifar10' instead of 'npz'"]),
        (["model.width=2"], "row-changed", ["model.width 2 instead of nothing"]),
        (["data.limit=3"], "row-quick", ["data.limit 3 instead of nothing"]),
        (["published=null", "train.lr=2.0"], "row", ["train.lr 2.0 instead of 0.001"]),
        (["data.root=x", "data.download=true", "data.workers=2", "seeds=1", "title=x"], "row", []),
        (["train.amp=null", "train.compile=true", "train.channels_last=true"], "row", []),
    ],
)
def test_what_overrides_make_of_a_published_row(
    tmp_path: Path, overrides: list[str], name: str, differs: list[str]
) -> None:
    row = load_recipe(write(tmp_path, GOOD), overrides)
    assert (row.name, row.differences) == (name, differs)
    assert (row.comparable is None) == bool(differs)
    again = load_recipe(write(tmp_path, row.dump(), "run.yaml"), ["seeds=1"])
    assert (again.name, again.differences) == (name, differs)
    own = write(tmp_path, row.dump().replace("-quick", ""), "small.yaml")
    assert load_recipe(own, ["seeds=1"]).name == name.replace("-quick", ""), (
        "a row that is small by itself keeps its name"
    )


def test_a_row_that_holds_what_the_published_one_has(tmp_path: Path) -> None:
    """What is set is compared with the table's own experiment, which the file need not run by itself."""
    text = GOOD + "experiment: {data.limit: 50, train.momentum: 0.5}\n"
    path = write(tmp_path, text.replace("fraction", "fraction"))
    row = load_recipe(path)
    momentum = f"train.momentum {row.train.momentum} instead of 0.5"
    assert (row.name, row.is_quick, row.comparable) == ("row", False, None)
    assert row.differences == ["data.limit nothing instead of 50", momentum]
    theirs = load_recipe(path, ["data.limit=50", "train.momentum=0.5"])
    assert (theirs.name, theirs.is_quick, theirs.differences) == ("row", False, [])
    assert theirs.comparable == row.published
    assert load_recipe(write(tmp_path, theirs.dump(), "run.yaml")) == theirs
    other = load_recipe(path, ["data.limit=40", "train.momentum=0.5"])
    assert (other.name, other.is_quick, other.differences) == ("row-quick", True, ["data.limit 40 instead of 50"])
    quick = load_recipe(path, quick=True)
    assert quick.differences[:2] == ["data.augment.pad 1 instead of 2", "data.limit 100 instead of 50"]


def test_what_is_said_in_words_takes_the_published_number_away(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "differs: [labels of our own]\n")
    row = load_recipe(path, ["train.lr=2.0"])
    assert (load_recipe(path).comparable, row.comparable) == (None, None)
    assert (row.name, row.differences) == ("row-changed", ["labels of our own", "train.lr 2.0 instead of 0.001"])


def test_a_row_that_is_published_only(tmp_path: Path) -> None:
    row = load_row(write(tmp_path, QUOTED), ["train.lr=2"], quick=True)
    assert isinstance(row, Quoted)
    assert (row.name, row.title, row.published.error, row.published.numbers()) == (
        *("row", "Another method", 3.8),
        {"accuracy": (96.2, None)},
    )
    assert load_row(write(tmp_path, row.dump(), "again.yaml")) == row
    assert mistakes(tmp_path, QUOTED) == [
        "row.yaml: model: is null: the row is published only, there is nothing to train"
    ]
    assert mistakes(tmp_path, QUOTED + "seeds: 3\nnots: x\n") == [
        "row.yaml:4: seeds: is for a row with a network; here model is null",
        "row.yaml:5: nots: unknown key; did you mean note?",
    ]
    assert mistakes(tmp_path, QUOTED.replace("its paper", "''")) == [
        "row.yaml:3: published: needs a source, because this row has no network"
    ]
    assert mistakes(tmp_path, "model: null") == ["row.yaml:1: published: is missing"]


def test_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = write(tmp_path, GOOD, "b.yaml"), write(tmp_path, GOOD, "a.yml")
    assert find_recipes(tmp_path) == [second, first]
    assert find_recipes("b.yaml") == [Path("b.yaml")]
    (tmp_path / "quickstart").mkdir()
    assert len(find_recipes("quickstart")) == 5, "an empty folder of the same name must not hide the packaged recipes"
    assert find_recipes("quickstart/conv")[0].name == "conv.yaml"
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="in the folder empty; it holds inner"):
        find_recipes("empty")
    with pytest.raises(FileNotFoundError, match=r"did you mean quickstart\?"):
        find_recipes("quikstart")
    with pytest.raises(FileNotFoundError, match="did you mean quickstart/anisotropic"):
        find_recipes("quickstart/anisotropi")
    with pytest.raises(FileNotFoundError, match="foveal list recipes"):
        find_recipes("zzz")


def test_packaged_recipes_are_valid() -> None:
    names = list_recipes()
    assert len(names) >= 5
    for name in names:
        row = load_row(find_recipes(name)[0])
        assert row.dump()
        if isinstance(row, Recipe):
            assert row.form == "quick" or load_recipe(find_recipes(name)[0], quick=True).is_quick, (
                "all have a quick form"
            )


def test_quickstart_rows_differ_in_the_plan_only() -> None:
    rows = sorted((load_recipe(path) for path in find_recipes("quickstart")), key=lambda row: row.row)
    assert [row.name for row in rows] == ["conv", "dilated", "deformable", "log_polar", "anisotropic"]
    assert len({yaml.safe_dump({**row.identity(), "convert": None}) for row in rows}) == 1
    assert [list(row.convert) for row in rows] == [[], *[["conv3"]] * 4]


def test_plans(tmp_path: Path) -> None:
    plan = {"conv3": {"layer": "dilated", "dilation": 2}}
    assert load_plan("conv3: {layer: dilated, dilation: 2}") == plan
    assert load_plan(str(write(tmp_path, "conv3: {layer: dilated, dilation: 2}"))) == plan
    assert load_plan(str(write(tmp_path, GOOD))) == load_recipe(tmp_path / "row.yaml").convert
    for wrong in ("conv3", "conv3: dilated", "[conv3]"):
        with pytest.raises(RecipeError, match="must look like"):
            load_plan(wrong)
    with pytest.raises(FileNotFoundError):
        load_plan(str(tmp_path / "absent.yaml"))


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "{a: 1e-3, b: 1., c: .5, d: -.inf, e: no, f: 0x10, g: 1_000, h: +7, i: ~, j: 2001-01-01, k: 1e400, l: on}"
    values = load_plan(f"x: {text}")["x"]
    assert values == {
        **{"a": 0.001, "b": 1.0, "c": 0.5, "d": -math.inf, "e": "no", "f": "0x10", "g": "1_000", "h": 7, "i": None},
        **{"j": "2001-01-01", "k": math.inf, "l": "on"},
    }


def test_null_takes_a_key_out(tmp_path: Path) -> None:
    path = tmp_path / "row.yaml"
    path.write_text(
        "model: {name: cifar_vgg16, dropout: 0.3}\nconvert: {a: {layer: dilated, dilation: 3}, b: {layer: conv}}\n"
        "data: {name: cifar10, augment: {pad: 4}}\n"
        "train: {epochs: 9, batch_size: 8, lr: 0.1, schedule: step, milestones: [6], nesterov: true}\n"
    )
    out = [
        "model.dropout",
        "convert.a.dilation",
        "convert.b",
        "data.augment",
        "train.milestones",
        "train.nesterov",
        "seeds",
    ]
    found = load_recipe(path, [*(f"{key}=null" for key in out), "train.schedule=cosine"])
    assert "dropout" not in found.model.model_dump()
    assert found.convert == {"a": {"layer": "dilated"}, "b": None}, "an entry that is null leaves its layers alone"
    assert (found.data.augment.pad, found.train.milestones, found.train.nesterov, found.seeds) == (0, [], False, 1)
    with pytest.raises(
        RecipeError, match=r"must lie below epochs \(4\), or the rate never drops there; milestones: \[2, 3\] fit"
    ):
        load_recipe(path, ["train.epochs=4"])
    with pytest.raises(RecipeError, match=r"below epochs \(1\).*take schedule: cosine"):
        load_recipe(path, ["train.epochs=1"])
    with pytest.raises(RecipeError, match=r"train\.lr: is missing"):
        load_recipe(path, ["train.lr=null"])


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [("train", "lerning_rate", "lr"), ("train", "learning_rate", "lr"), ("train", "num_epochs", "epochs"),
     ("data", "num_workers", "workers"), ("data", "image_size", "size")],
)  # fmt: skip
def test_what_others_call_a_key(tmp_path: Path, section: str, key: str, near: str) -> None:
    text = "model: {name: small_cnn}\ndata: {name: npz}\ntrain: {epochs: 1, batch_size: 1, lr: 0.1}\n"
    assert any(f"{section}.{key}: unknown key; did you mean {near}?" in mistake for mistake in mistakes(tmp_path, text, (f"{section}.{key}=1",)))  # fmt: skip
