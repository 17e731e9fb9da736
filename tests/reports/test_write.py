"""Reports: rows from run folders whatever state they are in, and a page that stands alone and is safe to open."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.console import Console

from foveal.metrics.intervals import wilson_interval
from foveal.recipes.schema import Quoted, Recipe
from foveal.reports.table import table
from foveal.reports.write import markdown, print_table, report, write_json
from foveal.training import fit

PLANS = {
    "plain": {},
    "log_polar": {"conv3": {"layer": "log_polar", "kernel_size": 5}},
    "anisotropic": {"conv3": {"layer": "anisotropic", "scales": [1, 2], "offset_bound": "half"}},
    "cross": {"conv3": {"layer": "cross", "field": 5}},
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Four real runs of one epoch on a few small images."""
    home = tmp_path_factory.mktemp("report")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        images = generator.integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
        np.savez(home / f"{split}.npz", images=images, labels=np.arange(20) % 2)
    for row, (name, plan) in enumerate(PLANS.items()):
        fit(Recipe.model_validate({**recipe(name, home), "row": row, "convert": plan}), home / "out", device="cpu")
    return home


def recipe(name, home):
    return {
        "name": name,
        "model": {"name": "small_cnn"},
        "data": {"name": "npz", "root": str(home)},
        "train": {"epochs": 2, "batch_size": 10, "lr": 0.01},
    }


@pytest.fixture(scope="session")
def html(trained):
    """The page of these runs."""
    return text_of(report(trained / "out"))


@pytest.fixture
def out(trained, tmp_path):
    """A copy of the runs that a test may damage."""
    return shutil.copytree(trained / "out", tmp_path / "out")


def text_of(page):
    return page.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects tags with attributes, and the text outside of style."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.inside = [], "", ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside != "style":
            self.words += data


def test_rows_follow_the_recipes(out):
    rows = table(out)
    assert [row["name"] for row in rows] == list(PLANS)
    for row in rows:
        (run,) = row["runs"]
        assert (run["state"], run["problem"], run["folder"]) == ("finished", None, f"{row['name']}/seed0")
        assert run["environment"]["torch"] == torch.__version__
        accuracy = row["test_accuracy"]
        assert accuracy["mean"] == accuracy["min"] == accuracy["max"] == run["test_accuracy"]
        assert (accuracy["n"], accuracy["std"]) == (1, None)
        assert accuracy["interval"] == wilson_interval(run["test_correct"], 20)
        assert row["params"] > 1000
        assert row["macs"] >= row["conv_macs"] > 1000


def test_the_table_is_written_as_json(trained, html):
    written = json.loads((trained / "out" / "table.json").read_text())
    assert written == {"rows": json.loads(json.dumps(table(trained / "out")))}


def test_unfinished_and_damaged_runs_are_named(bare, out):
    bare(out, "waiting")
    run = bare(out, "bad_result", result={})
    (run / "result.json").write_text("{")
    bare(out, "no_number", result={"test_accuracy": float("nan")})
    bare(out, "bad_count", result={"test_accuracy": 0.5, "test_correct": 30, "test_n": 20})
    (bare(out, "bad_recipe", result={"test_accuracy": 0.5}) / "recipe.yaml").write_text("model: [")
    (bare(out, "no_recipe", result={"test_accuracy": 0.5}) / "recipe.yaml").unlink()
    (bare(out, "bad_metrics", result={"test_accuracy": 0.5}) / "metrics.csv").write_bytes(b"epoch,loss\n1,\xff\n")
    (bare(out, "text_metrics", result={"test_accuracy": 0.5}) / "metrics.csv").write_text("epoch\nx\n")
    (bare(out, "no_environment", result={"test_accuracy": 0.5}) / "environment.json").write_text("[]")
    rows = {row["name"]: row["runs"][0] for row in table(out)}
    assert len(rows) == 4 + 9
    assert rows["waiting"]["state"] == "unfinished"
    assert rows["waiting"]["problem"] == "1 of 2 epochs; run the same command to go on"
    damaged = {name: run["problem"] for name, run in rows.items() if run["state"] == "damaged"}
    assert set(damaged) == set(rows) - set(PLANS) - {"waiting"}
    assert "result.json is not JSON" in damaged["bad_result"]
    assert "test_accuracy must be a number from 0 to 1" in damaged["no_number"]
    assert "metrics.csv" in damaged["text_metrics"]
    page = Page(text_of(report(out))).words
    for name, run in rows.items():
        assert name in page
        if run["problem"]:
            assert f"{name}/seed0 is {run['state']}: {run['problem']}" in page


def test_folders_that_hold_no_runs(tmp_path, out):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        table(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="two levels up"):
        table(out / "plain" / "seed0")


def test_the_page_shows_each_layer(html):
    page = Page(html)
    sources = [attributes for tag, attributes in page.tags if tag == "img"]
    alts = [attributes["alt"] for attributes in sources]
    fields = [alt for alt in alts if alt.startswith("Effective receptive field")]
    assert fields == [f"Effective receptive field of {name}" for name in PLANS]
    # log-polar: bins and kernels; cross: bins and two kernels; anisotropic: taps, winners and kernels; plain: kernels
    assert sum(alt.startswith("Bins of conv3") for alt in alts) == 2
    assert sum(alt.startswith("Learned kernels") for alt in alts) == 5
    assert sum(alt.startswith("Where output positions") for alt in alts) == 1
    assert sum(alt.startswith("The scale that wins") for alt in alts) == 1
    assert all(base64.b64decode(a["src"].partition(",")[2])[:4] in (b"\x89PNG", b"<?xm") for a in sources)
    assert "scale 1" in page.words
    assert "95th percentile" in page.words
    assert "centre of conv3" in page.words
    assert "conv3: {layer: log_polar, kernel_size: 5}" in page.words
    assert "epochs: 2" in page.words  # the recipe
    assert "cannot be shown" not in page.words


def test_the_page_stands_alone(html):
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form"} == set()
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value.startswith("data:image/"), (tag, key)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_charts_have_a_curve_and_a_label_for_each_row(html):
    page = Page(html)
    curves = [attributes["points"] for tag, attributes in page.tags if tag == "polyline"]
    assert len(curves) == 2 * len(PLANS)  # loss and accuracy
    assert all(len(points.split()) == 2 for points in curves)
    labels = [float(a["y"]) for tag, a in page.tags if tag == "text" and a.get("class") == "label"]
    for chart in (labels[:4], labels[4:]):
        assert min(np.diff(chart)) >= 13  # labels do not lie on each other
        assert min(chart) > 0
        assert max(chart) < 270


def test_every_string_of_a_recipe_is_escaped(bare, tmp_path):
    evil = '<script>alert("x")</script>'
    name = "a&b<i>"
    published = {"accuracy": 99.0, "std": 0.5, "n": 5, "source": evil}
    result = {"test_accuracy": 0.5, "test_correct": 5, "test_n": 10}
    run = bare(
        tmp_path, "named", result=result, title=evil, note=evil, published=published, convert={"<b>": {"layer": evil}}
    )
    (run / "environment.json").write_text(json.dumps({"cpu": evil, "command": ["foveal", evil], "torch": "<u>"}))
    (run.parent / "seed1").mkdir()
    run.parent.rename(tmp_path / "renamed")
    html = text_of(report(tmp_path))
    page = Page(html)
    assert {"script", "b", "u", "i"} & {tag for tag, _ in page.tags} == set()
    assert page.words.count(evil) >= 4
    assert "99.00 ± 0.50" in page.words
    (tmp_path / name).mkdir()
    shutil.move(tmp_path / "renamed" / "seed0", tmp_path / name / "seed0")
    assert name in Page(text_of(report(tmp_path))).words


def test_numbers_beside_the_published_one(bare, tmp_path):
    result = {"test_accuracy": 0.77, "test_correct": 7700, "test_n": 10000}
    bare(tmp_path, "a", result=result, published={"accuracy": 78.44, "std": 0.12, "n": 5, "source": "Table 1"})
    bare(tmp_path, "b", result=result, published={"error": 21.5})
    page = Page(text_of(report(tmp_path)))
    assert "78.44 ± 0.12" in page.words
    assert "n = 5 · Table 1" in page.words
    assert "78.50" in page.words
    assert "printed as error 21.5" in page.words
    mark, _ = [attributes for tag, attributes in page.tags if attributes.get("class") == "paper"]
    bar, _ = [attributes for tag, attributes in page.tags if attributes.get("class") == "bar"]
    assert float(re.match(r"M([\d.]+)", mark["d"])[1]) > float(bar["x2"])  # it lies above the interval


def fill(bare, folder):
    """A table with a baseline, three seeds, a row that is published only, and a quick one."""
    for name, corrects in {"conv": (76, 78, 77), "lpsc": (78, 80, 79)}.items():
        for seed, correct in enumerate(corrects):
            result = {"test_accuracy": correct / 100, "test_correct": correct, "test_n": 100, "params": 2_306_634}
            published = {"accuracy": 77.43, "std": 0.25, "n": 5, "source": "Table 1(a)"}
            lines = ["1,2,0.9,0.5,30", f"2,4,0.4,{correct / 100},61"]
            bare(folder, name, seed, result=result, published=published, baseline="conv", seeds=5, lines=lines,
                 target_loss=0.5, statistic="best", title="Log-polar" * (name == "lpsc"))  # fmt: skip
    (folder / "theirs").mkdir()
    published = {"error": 22.78, "source": "their *README*"}
    row = Quoted.model_validate({"name": "theirs", "row": 9, "model": None, "published": published})
    (folder / "theirs" / "recipe.yaml").write_text(row.dump())


def test_a_table_as_markdown(bare, tmp_path):
    fill(bare, tmp_path)
    assert markdown(tmp_path).splitlines() == [
        "| row | accuracy, % | min–max | paper, % | params | MACs | img/s | time/img |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| conv | 77.00 ± 1.00 | 76.00–78.00 | 77.43 ± 0.25 (n = 5 · Table 1(a)) | 2.31 M | – | – | – |",
        "| Log-polar | 79.00 ± 1.00 | 78.00–80.00 | 77.43 ± 0.25 (n = 5 · Table 1(a)) | 2.31 M | – | – | – |",
        "| theirs | – | – | 77.22 (their \\*README\\* · printed as error 22.78) | – | – | – | – |",
        "",
        "| row | loss &lt; 0.5 after | within 1 point after |",
        "| --- | ---: | ---: |",
        "| conv | 2 epochs, 61 s | 2 epochs, 61 s |",
        "| Log-polar | 2 epochs, 61 s | 2 epochs, 61 s |",
        "",
        "- Several seeds: mean ± standard deviation over them.",
        "- Accuracy of the best epoch of each run, chosen on the test images, as the recipe states.",
        "- After: epochs and seconds of the run until the training loss stays below the value, and until the test accuracy "
        "is within one point of its last value; the median over seeds.",
        "- 3 of 5 seeds: conv, lpsc.",
        "- lpsc: +2.00 points against conv; even the worst run (78.00) beats its mean.",
    ]


def test_what_the_page_says_of_a_table(bare, tmp_path):
    fill(bare, tmp_path)
    bare(tmp_path, "fast-quick", result={"test_accuracy": 0.5}, form="quick", published={"accuracy": 99.9},
         differs=["train.epochs 2 instead of 164"])  # fmt: skip
    page = Page(text_of(report(tmp_path)))
    words = " ".join(page.words.split())
    assert "n = 3, 78.00 to 80.00" in words
    assert "+2.00convworst run above its mean" in words
    assert "published only" in words
    assert "loss < 0.5 after" in words
    assert words.count("Differs from the table's own experiment (fast-quick): train.epochs 2 instead of 164.") == 1
    assert words.count("Differs from") == 1
    assert "Quick rows see a part of the data or of the epochs: not comparable with published numbers." in words
    assert "99.9" not in words.replace("accuracy: 99.9", ""), "the number stands in the recipe only"
    marks = [tag for tag, attributes in page.tags if attributes.get("class") == "mark"]
    assert len(marks) == 2, "on the row and on the page"


def test_results_in_a_file_whose_name_says_what_they_are(bare, tmp_path):
    fill(bare, tmp_path / "t")
    write_json(tmp_path / "t", tmp_path / "table.json")
    written = json.loads((tmp_path / "table.json").read_text())
    assert {"commands", "hardware", "seeds", "notes", "rows", "table", "quick"} == set(written)
    assert written["notes"][-1] == "lpsc: +2.00 points against conv; even the worst run (78.00) beats its mean."
    with pytest.raises(FileNotFoundError, match="--json must name a file in a folder that exists"):
        write_json(tmp_path / "t", tmp_path / "nowhere" / "table.json")
    for name, word, changes in (("a-quick", "quick", {"form": "quick"}), ("b-changed", "changed", {"differs": ["x"]})):
        bare(tmp_path / word, name, result={"test_accuracy": 0.5}, **changes)
        with pytest.raises(
            ValueError, match=f"--json must have '{word}' in its name, because rows of .*table_{word}.json"
        ):
            write_json(tmp_path / word, tmp_path / "table.json")
        write_json(tmp_path / word, tmp_path / f"table_{word}.json")
        assert json.loads((tmp_path / f"table_{word}.json").read_text())["quick"] == (word == "quick")


def test_a_network_that_cannot_be_drawn_costs_no_row(out):
    shutil.rmtree(out / "log_polar" / "seed0" / "checkpoint")
    for part in (out / "anisotropic" / "seed0" / "checkpoint").rglob("weights.safetensors"):
        part.write_bytes(b"broken")
    page = Page(text_of(report(out))).words
    assert "the network of log_polar/seed0 cannot be shown: nothing is saved" in page
    assert "the network of anisotropic/seed0 cannot be shown" in page
    assert len(table(out)) == len(PLANS)


def test_weights_that_are_not_finite_are_reported(out, monkeypatch):
    from foveal.reports import layers

    load = layers.load_run

    def broken(folder):
        found, model = load(folder)
        torch.nn.init.constant_(model.conv3.weight, float("nan"))
        if hasattr(model.conv3, "offset_conv"):
            torch.nn.init.constant_(model.conv3.offset_conv.weight, float("nan"))
        return found, model

    monkeypatch.setattr(layers, "load_run", broken)
    for name in ("plain", "cross"):
        shutil.rmtree(out / name)
    page = Page(text_of(report(out))).words
    assert page.count("cannot be shown") == 2
    assert page.count("receptive field of conv3 cannot be shown: model must have finite gradients") == 2


def test_missing_test_images_cost_only_what_needs_them(out, trained):
    for path in out.glob("*/seed0/recipe.yaml"):
        path.write_text(path.read_text().replace(str(trained), "/nowhere"))
    page = Page(text_of(report(out)))
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert sum(alt.startswith("Bins") for alt in alts) == 2
    assert not any(alt.startswith(("Where", "Effective")) for alt in alts)
    assert page.words.count("on test images cannot be shown: /nowhere/test.npz") == len(PLANS)


def test_plain_networks_are_compared_at_their_last_map(out):
    for name in ("log_polar", "anisotropic", "cross"):
        shutil.rmtree(out / name)
    page = Page(text_of(report(out))).words
    assert "centre of conv3" in page
    assert "Layer conv1" in page  # the first convolution stands for a network without other layers


@pytest.mark.parametrize(("width", "terminal"), [(80, False), (80, True), (100, True)])
def test_the_table_on_a_console(bare, tmp_path, width, terminal):
    result = {"test_accuracy": 0.7744, "test_correct": 7744, "test_n": 10000, "params": 2_306_634, "macs": 11_418_112}
    result |= {"train_images_per_s": 12345.6, "ms_per_image": 0.1234}
    published = {"accuracy": 78.44, "std": 0.12}
    bare(tmp_path, "log_polar_with_a_long_name", result=result, title="[bold]", published=published)
    bare(tmp_path, "conv", result=result)
    bare(tmp_path, "waiting")
    console = Console(width=width, force_terminal=terminal, no_color=True, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_table(tmp_path, console)
        printed = console.export_text()
    assert max(map(len, printed.splitlines())) <= width
    assert ("─" in printed) == terminal
    for text in ("77.44 (76.6–78.2)", "78.44 ± 0.12", "2.31 M", "11.42 M", "12,346", "One seed (n = 1)"):
        assert text in printed
    assert "waiting/seed0 is unfinished: 1 of 2 epochs" in printed
