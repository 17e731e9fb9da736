"""`foveal export`: what it prints, what it writes, what it refuses; and predictions from the file."""

import csv

import pytest

pytest.importorskip("onnxruntime", reason="needs the export extra")
pytest.importorskip("onnxscript", reason="needs the export extra")


def shares(folder):
    with open(folder / "classes.csv", newline="") as file:
        return [(row["class"], float(row["probability"])) for row in csv.DictReader(file)]


def test_a_run_is_exported_and_predicts_alike(run, trained, image, tmp_path):
    folder = trained / "alpha/seed1"
    out = tmp_path / "alpha.onnx"
    code, text, err = run("export", folder, "--out", out, "--dynamic", "batch", "--image", image)
    assert (code, err) == (0, "")
    assert text.count("of the largest output") == 4
    assert f"checked in its runtime: {out}" in text
    for source, name in ((folder, "torch"), (out, "file")):
        code, _, err = run("predict", source, image, "--out", tmp_path / name)
        assert (code, err) == (0, "")
    for (mine, one), (theirs, other) in zip(shares(tmp_path / "torch"), shares(tmp_path / "file"), strict=True):
        assert mine == theirs
        assert one == pytest.approx(other, rel=1e-4)


def test_a_model_by_name_says_that_nobody_trained_it(run, image, tmp_path):
    out = tmp_path / "small.onnx"
    plan = "{conv1: {layer: log_polar, kernel_size: 9}}"
    code, text, err = run("export", "small_cnn", "--plan", plan, "--input-size", "3,32,32", "--out", out)
    assert (code, err) == (0, "")
    assert "random weights: nobody trained it" in text
    assert out.stat().st_size > 1000
    code, _, err = run("predict", out, image)
    assert code == 2
    assert "was not made of a run" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet19",), "resnet19 is no folder"),
        (("small_cnn", "--input-size", "32"), "--input-size must be channels, height and width"),
        (("small_cnn", "--dynamic", "height"), "dynamic must be some of batch, size; got ('height',)"),
        (("small_cnn", "--opset", "12"), "opset must be 20 or later"),
        (("small_cnn", "--out", "x.pt"), "path must end in .onnx for onnx; got x.pt"),
    ],
)
def test_what_is_refused(run, arguments, words):
    code, _, err = run("export", *arguments)
    assert code == 2
    assert words in err


def test_a_plan_is_not_for_a_run(run, trained):
    code, _, err = run("export", trained / "alpha/seed1", "--plan", "{}")
    assert code == 2
    assert "--plan is for a network by name" in err
