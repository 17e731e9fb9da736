"""Commands that look into networks: what they draw, count and say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
LOG_POLAR = "{conv1: {layer: log_polar, kernel_size: 9, radial_bins: 2, angular_bins: 6, rotation: 0.5, stride: 2}}"


@pytest.mark.parametrize(
    ("arguments", "caption"),
    [
        (
            ["bins", "--out", "a.svg"],
            "a.svg: conv1, 9 × 9 window · 2 radial × 6 angular bins · growth rate 2 · rotation 0.5",
        ),
        (["bins", "--image", "image.png", "--at", "3,7"], "bins.png: conv1, 9 × 9 window"),
        (["kernels"], "kernels.png: conv1, 9 × 9 kernels: 16 of 32 output and 3 of 3 input channels"),
        (
            ["kernels", "--layer", "conv2"],
            "kernels.png: conv2, 3 × 3 kernels: 16 of 32 output and 3 of 32 input channels",
        ),
        (["pooled", "--image", "image.png", "--at", "3,7"], "pooled.png: conv1, 9 × 9 window"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_draw(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], caption: str) -> None:
    monkeypatch.chdir(image.parent)
    what, *others = arguments
    code, out, err = run("draw", what, "small_cnn", "--plan", LOG_POLAR, *others)
    assert (code, err) == (0, "")
    assert out.startswith(caption)
    assert len(out.splitlines()) == 1
    assert ("random weights" in out) == (what == "kernels")
    if "--at" in arguments and what == "bins":
        assert "at row 3, column 7" in out
    path = Path(out.partition(":")[0])
    assert path.read_bytes().startswith(b"<?xml" if path.suffix == ".svg" else b"\x89PNG")
    before = path.read_bytes()
    assert run("draw", what, "small_cnn", "--plan", LOG_POLAR, *others)[0] == 0
    assert path.read_bytes() == before, "the same command draws the same picture"


ANISOTROPIC = "{conv3: {layer: anisotropic, scales: [1, 2, 4]}}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["maps"], "maps.png: small_cnn: conv1, conv2, conv3"),
        (["maps", "--layer", "conv2", "--layer", "pool1"], "maps.png: small_cnn: conv2, pool1"),
        (["winners", "--out", "w.svg"], "w.svg: small_cnn: conv3"),
        (["points", "--at", "10,3"], "points.png: conv3 of small_cnn"),
        (["points", "--layer", "conv1"], "points.png: conv1 of small_cnn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_draw_what_a_network_makes_of_an_image(
    run: Run, image: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(image.parent)
    for _ in range(2):
        code, out, err = run("draw", *arguments, "small_cnn", "--plan", ANISOTROPIC, "--image", image.name)
        assert (code, err, out) == (
            0,
            "",
            f"{said} (random weights: nobody trained this network; --weights takes others)\n",
        )
    path = Path(said.partition(":")[0])
    assert path.read_bytes().startswith(b"<?xml" if path.suffix == ".svg" else b"\x89PNG")


def test_draw_the_points_of_a_tables_rows(run: Run, trained: Path, image: Path, tmp_path: Path) -> None:
    for seen in (image, "3"):  # a file, or an image of the test split
        code, out, err = run(
            "draw", "points", trained, "--layer", "conv2", "--image", seen, "--out", tmp_path / "p.png"
        )
        assert (code, err) == (0, "")
        assert out == f"{tmp_path / 'p.png'}: conv2 of beta, alpha\n"


def test_raw_kernels(run: Run, trained: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / "mean.png", tmp_path / "raw.png"]
    for picture, more in zip(pictures, ([], ["--raw"]), strict=True):
        code, out, err = run("draw", "kernels", trained / "alpha" / "seed0", "--out", picture, *more)
        assert (code, err) == (0, "")
        assert ("weights before 1 / N" in out) == bool(more)
    assert pictures[0].read_bytes() != pictures[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maps", "small_cnn"], "maps needs --image"),
        (["maps", "small_cnn", "--image", "image.png", "--layer", "conv9"], "layers must be names of modules"),
        (["maps", "small_cnn", "--image", "image.png", "--at", "1,2"], "--at is the pixel whose points are drawn"),
        (
            ["winners", "small_cnn", "--image", "image.png"],
            "no network has a layer that takes the maximum over several",
        ),
        (
            ["winners", "small_cnn", "--image", "image.png", "--layer", "conv1"],
            "conv1: not a layer that takes the maximum",
        ),
        (["points", "small_cnn", "--image", "image.png"], "no network has a layer with sampling points"),
        (
            ["points", "small_cnn", "--image", "image.png", "--layer", "conv9"],
            "--layer must name a layer of the network; got",
        ),
        (
            ["points", "small_cnn", "--image", "image.png", "--layer", "pool1"],
            "pool1 must be a plain, dilated, deformable",
        ),
        (
            ["points", "small_cnn", "--image", "image.png", "--layer", "conv1", "--at", "999,0"],
            "at must lie in the image",
        ),
        (["bins", "small_cnn", "--plan", LOG_POLAR, "--raw"], "--raw is for kernels"),
        (["kernels", "small_cnn", "--raw"], "raw is of weights that bins share; Conv2d has no bins"),
        (["bins", "small_cnn", "--plan", LOG_POLAR, "--layer", "conv1", "--layer", "conv2"], "--layer names one layer"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_what_cannot_be_drawn(
    run: Run, image: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(image.parent)
    code, out, err = run("draw", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_draw_a_trained_network(run: Run, trained: Path, tmp_path: Path) -> None:
    for what, start in (("bins", "conv3, 5 × 5 window"), ("kernels", "conv3, 5 × 5 kernels")):
        out = tmp_path / f"{what}.png"
        code, text, err = run("draw", what, trained / "alpha" / "seed0", "--out", out)
        assert (code, err) == (0, "")
        assert text.startswith(f"{out}: {start}")
        assert out.stat().st_size > 1000


def test_the_position_of_a_pooled_picture_is_the_pixel(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At stride 2 and with the paddings of a same-size layer, without any, and with more than half a window."""
    from foveal.evaluation import drawing

    monkeypatch.chdir(image.parent)
    drawn = []
    real = drawing.draw_pooled
    monkeypatch.setattr(drawing, "draw_pooled", lambda *a, **k: drawn.append((a[3], k["pixel"])) or real(*a, **k))
    for padding in (4, 0, 6):
        plan = LOG_POLAR.replace("stride: 2", f"stride: 2, padding: {padding}")
        assert run("draw", "pooled", "small_cnn", "--plan", plan, "--image", image, "--at", "8,12")[0] == 0
        (place, pixel) = drawn.pop()
        assert pixel == (8, 12)
        assert [2 * p + 4 - padding for p in place] == [8, 12]
    for at, place in (("19,23", (5, 7)), ("0,0", (0, 0))):  # near the border the last position there is
        plan = LOG_POLAR.replace("stride: 2", "stride: 2, padding: 0")
        assert run("draw", "pooled", "small_cnn", "--plan", plan, "--image", image, "--at", at)[0] == 0
        assert drawn.pop()[0] == place
    code, _, err = run("draw", "pooled", "small_cnn", "--plan", LOG_POLAR, "--image", image, "--at", "20,0")
    assert code == 2
    assert "--at must lie in the image of 20 x 24, got 20,0" in err


def test_field(run: Run, tmp_path: Path) -> None:
    plan = "{features.0: {layer: log_polar, kernel_size: 7, growth_rate: 9.0, support: square}, " + (
        "features.2: {layer: log_polar, kernel_size: 7, growth_rate: 9.0, support: square}}"
    )
    out = tmp_path / "field.png"
    layers = ["--layer", "features.8", "--layer", "features.13"]
    code, text, err = run("field", "simple_vgg", "--plan", plan, *layers, "--input-size", "3,72,72", "--out", out)
    assert (code, err) == (0, "")
    rows = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    found = {(row[0], row[1]): (row[2], row[3], row[6], row[7]) for row in rows[1:5]}
    assert found == {
        ("simple_vgg", "features.8"): ("14 x 14", "196", "2, 2", "7, 7"),
        ("simple_vgg", "features.13"): ("32 x 32", "1,024", "4, 4", "16, 16"),
        ("converted", "features.8"): ("22 x 22", "484", "2, 2", "7, 7"),
        ("converted", "features.13"): ("40 x 40", "1,600", "4, 4", "16, 16"),
    }
    assert out.read_bytes().startswith(b"\x89PNG")


def test_field_looks_at_the_last_map_of_convolutions(run: Run, tmp_path: Path) -> None:
    code, text, _ = run("field", "small_cnn", "--input-size", "3,28,28", "--out", tmp_path / "field.svg")
    assert code == 0
    assert "conv3" in text
    assert "pool" not in text, "a pooling behind the last kernel has another field"
    assert (tmp_path / "field.svg").read_bytes().startswith(b"<?xml")


def test_cam_draws_the_rows_of_a_table(run: Run, trained: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.parent)
    code, out, err = run("cam", trained, image.name, image.name, "--out", "maps.png", "--class", "2", "--device", "cpu")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["beta", "beta", "alpha", "alpha", "picture: maps.png"]
    assert re.fullmatch(r"beta  image.png: 2 \([\d.]+%\), box \d+,\d+ to \d+,\d+", lines[0])
    assert Path("maps.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run("cam", "small_cnn", image.name, "--layer", "conv3", "--rule", "rectangle", "--plan", LOG_POLAR)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("picture: cam.png (random weights: ")
    code, _, err = run("cam", "small_cnn", image.name, "--layer", "conv9")
    assert code == 2
    assert "layer must be the name of a module" in err
    code, _, err = run("cam", trained, image.name, "--class", "4")
    assert code == 2
    assert "classes must be 0 to 3; got 4 to 4" in err


def test_cam_measures_the_runs_of_a_table(run: Run, image: Path, tmp_path: Path) -> None:
    lines = ["file,xmin,ymin,xmax,ymax"]
    for split in ("train", "val"):
        for label in ("a", "b"):
            path = tmp_path / split / label / "1.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(image.read_bytes())
            lines += [f"val/{label}/1.png,2,2,12,12"] if split == "val" else []
    (tmp_path / "val_boxes.csv").write_text("\n".join(lines))
    recipe = tmp_path / "row.yaml"
    recipe.write_text(
        f"model: {{name: cifar_resnet20}}\ndata: {{name: folder, root: '{tmp_path}', size: 16}}\n"
        "train: {epochs: 1, batch_size: 2, lr: 0.01}\n"
    )
    assert run("train", recipe, "--out", tmp_path / "out", "--device", "cpu")[0] == 0
    target = tmp_path / "errors.json"
    code, out, err = run("cam", tmp_path / "out", "--boxes", tmp_path, "--json", target, "--device", "cpu")
    assert code == 0
    assert re.match(r"row/seed0: classification error \d+\.\d%, localisation error by region \d+\.\d%, localis", err)
    assert out.splitlines()[-1] == f"errors: {target}"
    assert json.loads(target.read_text())["rows"][0]["localisation"]["rectangle.top1"]["n"] == 1
    (tmp_path / "val_boxes.csv").write_text("file,xmin,ymin,xmax,ymax\nval/a/2.png,0,0,5,5\n")
    code, _, err = run("cam", tmp_path / "out", "--boxes", tmp_path, "--json", target)
    assert code == 2
    assert "val_boxes.csv:2: there is no image val/a/2.png" in err


def test_cost(run: Run, tmp_path: Path) -> None:
    plan = "conv3: {layer: log_polar, kernel_size: 9, radial_bins: 2, angular_bins: 6, growth_rate: 3.0}"
    (tmp_path / "plan.yaml").write_text(plan)
    for given in (plan, tmp_path / "plan.yaml"):
        code, out, err = run("cost", "small_cnn", "--plan", given, "--input-size", "1,28,28")
        assert (code, err) == (0, "")
        numbers = {line.strip().split("  ")[0]: re.findall(r"[\d,.]+", line) for line in out.splitlines() if line}
        # conv1 and conv2 as they are, conv3 with 2 * 6 + 1 columns in place of 9 taps
        plain = 288 * 784 + 9216 * 196
        macs = (plain + 18432 * 196, plain + 32 * 64 * 13 * 196)
        assert [
            int(number.replace(",", "")) for number in numbers["conv multiply-adds (no pooling additions)"]
        ] == list(macs)
        assert numbers["parameters"] == ["28,842", "37,034"]
        # section 3.4: 2 * 2 * 6 * 32 multiplications, 81 * 32 additions, 81 look-ups at 196 places
        assert re.search(r"conv3 +9x9 +196 +768 +2,592 +81", out)
        assert re.search(r"conv3 +Conv2d 3x3 +LogPolarConv2d .* fresh", out)
    kept = "{conv3: {layer: log_polar, kernel_size: 9, init: project}}"
    assert "projected" in run("cost", "small_cnn", "--plan", kept)[1]
    code, out, _ = run("cost", "small_cnn")
    assert code == 0
    assert "converted" not in out
    assert "section 3.4" not in out


def test_field_of_several_networks(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "field.png"
    code, text, err = run("field", "small_cnn", "simple_vgg", "--input-size", "3,28,28", "--out", out)
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in text.splitlines()[1:3]] == [
        ["small_cnn", "conv3"],
        ["simple_vgg", "features.10"],
    ]
    plan = "{type:Conv2d: {layer: dilated}}"
    code, text, err = run("field", "small_cnn", "simple_vgg", "--plan", plan, "--input-size", "3,28,28", "--out", out)
    assert (code, err) == (0, "")
    assert text.partition("images:")[0].count("converted") == 2


def test_field_of_a_transformer_is_that_of_its_last_tokens(run: Run, tmp_path: Path, timm: object) -> None:
    vit = ("vit_tiny_patch16_224", "--input-size", "3,224,224", "--out", tmp_path / "field.png")
    code, text, err = run("field", *vit)
    assert (code, err) == (0, "")
    assert "blocks.11." in text


def test_cost_and_field_state_what_they_look_at(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("cost", "small_cnn", "--input-size", "1,28,28", "--num-classes", "7")
    assert (code, "one image of 1 x 28 x 28, 7 classes" in out) == (0, True)
    small = ("field", "cifar_resnet20", "--out", tmp_path / "field.png", "--input-size")
    code, out, err = run(*small, "3,40,40")
    assert (code, err) == (0, "")
    assert "images: 3 x 40 x 40; activations: identity; random weights: cifar_resnet20\n" in out
    assert "cut by the border of the image: cifar_resnet20, layer3.2.conv2 (a larger --input-size shows all)\n" in out
    assert "cut by" not in run(*small, "3,96,96")[1]


def test_cam_says_that_weights_are_random_or_takes_others(
    run: Run, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchvision: object
) -> None:
    import torch

    from foveal.models import create_model

    monkeypatch.chdir(tmp_path)
    code, out, err = run("cam", "cifar_resnet20", image)
    assert (code, err) == (0, "")
    assert out.endswith("picture: cam.png (random weights: nobody trained this network; --weights takes others)\n")
    torch.save(create_model("cifar_resnet20", num_classes=3).state_dict(), "own.pth")
    (tmp_path / "pictures").mkdir()
    image.rename(tmp_path / "pictures" / "cat.png")
    code, out, err = run("cam", "cifar_resnet20", "pictures", "--weights", "own.pth")
    assert (code, err) == (0, "")
    assert "random" not in out
    assert out.startswith("cifar_resnet20  pictures/cat.png: ")
    assert run("field", "cifar_resnet20", "--weights", "own.pth")[:1] == (0,)
    assert run("cam", "cifar_resnet20", "nodog.jpg")[::2] == (2, "error: nodog.jpg is not there: name an image file\n")
    (tmp_path / "empty").mkdir()
    assert run("cam", "cifar_resnet20", "empty")[::2] == (2, "error: empty holds no image file\n")
    assert "has its own" in run("field", tmp_path / "empty", "--weights", "own.pth")[2]
