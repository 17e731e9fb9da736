"""The measurements of the analyses' pages run on a tiny scale, and what they do to digits is what they say."""

import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.training import fit, load_recipe

FOLDER = Path(__file__).parent.parent / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def digits(tmp_path):
    """Twenty small pictures of 28 x 28 in two classes, as an npz set."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        labels = np.arange(20) % 2
        images = draw.integers(0, 60, (20, 28, 28)) + 150 * labels[:, None, None]
        np.savez(tmp_path / f"{split}.npz", images=images.astype(np.uint8), labels=labels)
    return tmp_path


def test_odd_offsets_end_no_process_of_ours(monkeypatch):
    odd = script("odd_offsets")
    ours = {name: call for name, call in odd.FUNCTIONS.items() if name.startswith("foveal.")}
    assert len(ours) == len(odd.FUNCTIONS) - 1
    monkeypatch.setattr(odd, "FUNCTIONS", ours)
    found = odd.measure()
    assert [(row["offset"], row["ended"]) for row in found["rows"]] == [(value, "returned") for value in odd.VALUES]
    assert [row["finite_outputs"] for row in found["rows"]] == [240, 243, 243, 243], "NaN comes out of three channels"
    kept = json.loads((FOLDER.parent / "docs" / "results" / "odd_offsets.json").read_text())
    assert [row for row in kept["rows"] if row["function"] in ours] == found["rows"]
    crashed = [row["offset"] for row in kept["rows"] if row["function"] not in ours and row["ended"] == "SIGSEGV"]
    assert crashed == ["nan"], "as the README says"


def test_robustness(digits, capsys):
    robustness = script("robustness")
    out, picture = digits / "found.json", digits / "found.png"
    arguments = ["--data", "npz", "--root", str(digits), "--seeds", "2", "--limit", "20", "--epochs", "1"]
    robustness.main([*arguments, "--json", str(out), "--picture", str(picture)])
    found = json.loads(out.read_text())
    assert set(found["accuracy"]) == set(robustness.LAYERS)
    for curves in found["accuracy"].values():
        for test, values in robustness.TESTS.items():
            assert np.array(curves[test]).shape == (2, len(values))
    weights = found["first_layer_weights"]
    equal = {weights[name] for name in robustness.GROUPS["9 weights a kernel"]}
    assert equal == {9 * robustness.CHANNELS}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("\n| ") >= len(weights)


def test_first_layers_of_equal_field_and_all_else_equal():
    robustness = script("robustness")
    nets = {}
    for name in robustness.LAYERS:
        torch.manual_seed(0)
        nets[name] = robustness.network(name)
    for name in robustness.GROUPS["9x9 field"]:
        layer = nets[name][0]
        reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        assert reach == [9, 9], name
    rests = [torch.cat([p.flatten() for p in net[1:].parameters()]) for net in nets.values()]
    assert all(torch.equal(rest, rests[0]) for rest in rests)
    assert {net(torch.zeros(2, 1, 44, 44)).shape for net in nets.values()} == {(2, 10)}


def test_digits_on_their_canvas():
    on_canvas = script("robustness").on_canvas
    image = torch.zeros(4, 1, 28, 28)
    image[:, :, 14:16, 10:18] = 1.0
    plain = on_canvas(image)
    assert plain.shape == (4, 1, 44, 44)
    assert torch.equal(plain[:, :, 8:36, 8:36], image)
    for size in (0.5, 2.0):
        changed = on_canvas(image, size=size)
        assert changed.shape == plain.shape
        assert changed.sum() == pytest.approx(float(plain.sum()) * size**2, rel=0.05)
    moved = on_canvas(image, shift=3)
    for k, (down, right) in enumerate(((3, 0), (-3, 0), (0, 3), (0, -3))):
        assert torch.equal(moved[k, 0, 20 + down : 24 + down, 10 + right : 30 + right], plain[k, 0, 20:24, 10:30])
    noisy = on_canvas(image, noise=0.5)
    assert torch.equal(noisy, on_canvas(image, noise=0.5))
    assert (noisy - plain).std() == pytest.approx(0.5, rel=0.05)


def test_field_growth(tmp_path):
    growth = script("field_growth")
    out, picture = tmp_path / "found.json", tmp_path / "found.svg"
    small = ["--kernel-sizes", "5", "7", "--depths", "1", "2", "--seeds", "2"]
    growth.main([*small, "--json", str(out), "--picture", str(picture)])
    found = json.loads(out.read_text())
    assert list(found["stacks"]) == list(growth.STACKS)
    plain = found["stacks"]["conventional"]
    assert plain["depth_exponent"]["mean"] == pytest.approx(0.5, abs=0.1)
    assert np.array(plain["width_mean"]).shape == (2, 2)
    assert picture.read_bytes().startswith(b"<?xml")


def test_bin_statistics(digits):
    statistics = script("bin_statistics")
    recipe = digits / "tiny.yaml"
    recipe.write_text(
        "model: {name: cifar_alexnet}\n"
        f"data: {{name: npz, root: '{digits}', size: 32}}\ntrain: {{epochs: 1, batch_size: 10, lr: 0.01}}\n"
    )
    fit(load_recipe(recipe), digits / "runs", device="cpu")
    out = digits / "found.json"
    arguments = ["--images", f"npz:{digits}", "--run", str(digits / "runs" / "tiny" / "seed0"), "--partitions", "20"]
    statistics.main([*arguments, "--json", str(out), "--pictures", str(digits)])
    found = json.loads(out.read_text())
    for title in statistics.MAPS:
        for sets in ("all", "image"):
            entry = found["correlation"][title][sets]
            assert np.array(entry["scores"]).shape == (3, 8)
            assert entry["level_means"] == pytest.approx(np.mean(entry["scores"], 1).tolist(), abs=1e-5)
            assert entry["images"] == 20
    assert found["weights"]["quick"] is True
    assert found["weights"]["trained"]["taps"]["kernels"] == 64
    for name in ("bin_correlation.png", "weight_spread.png"):
        assert (digits / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("case", ["lpsc-k9", "acn-64"])
def test_tuning_tiles(case, tmp_path, capsys):
    """Every kind of kernel runs with other tiles than its rule's, here in Triton's interpreter."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if not triton.knobs.runtime.interpret:
        pytest.skip("on a GPU it is run as a command")
    tune = script("tune_gpu")
    out = tmp_path / "tiles.json"
    shape = ["--shape", "1", "3", "4", "4"]
    tune.main(["--case", case, *shape, "--most", "2", "--dtype", "float32", "--quick", "--json", str(out)])
    found = json.loads(out.read_text())["tiles"]
    rules = {"lpsc-k9": ["of_product", "of_gradient"], "acn-64": ["of_samples", "of_scatter", "of_gradient"]}
    assert [part["rule"] for part in found] == rules[case]
    for part in found:
        assert len(part["rows"]) == 3
        assert sum(row["tile"] is None for row in part["rows"]) == 1
        assert all(row["ms"] > 0 for row in part["rows"])
    assert capsys.readouterr().out.count("best of 2") == len(found)


def test_tiles_that_cannot_run_are_named_and_the_next_to_the_rule_come_first():
    tune = script("tune_gpu")
    assert tune.tiles.of_product(torch.zeros(1), 1, 16, 16) == (64, 16, 16, 4)

    def call():
        if tune.tiles.of_product(torch.zeros(1), 1, 16, 16).num_warps == 4:
            raise RuntimeError("out of resources\nmore")

    rows = tune.tuned(tune.Watch(1, True), "of_product", call, 16, 4)
    sides = [row["tile"] and tuple(row["tile"].values()) for row in rows if row.get("refused") == "out of resources"]
    assert sides == [None, (64, 16, 16, 4), (32, 16, 16, 4), (128, 16, 16, 4)]
    assert [tuple(row["tile"].values()) for row in rows if "ms" in row] == [(64, 16, 16, 8)]


def test_parts_on_a_gpu_end_in_time_and_are_summed_up(tmp_path, monkeypatch):
    """A part whose time is up is ended with all that it started, and the table says what each one found by then."""
    on_gpu = script("on_gpu")
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import subprocess, sys, time\nprint('begun', flush=True)\nsubprocess.run(['sleep', '60'])\n")
    monkeypatch.setattr(on_gpu, "__file__", str(sleeper))
    start = time.monotonic()
    ended = on_gpu.run_part("tests", 1.5, [], tmp_path / "log.txt")
    assert ended["code"] == "time was up"
    assert time.monotonic() - start < 10
    assert "begun" in (tmp_path / "log.txt").read_text()
    checks = {"binned, float32, 64 channels": {"right": True}, "sampled, float32, 64 channels": {"right": False}}
    on_gpu.write(tmp_path / "smoke.json", {"checks": checks, "figures": {}})
    told = "E   AssertionError: 3\n"
    on_gpu.write(tmp_path / "tests.json", {"passed": ["a"], "failed": {"x/test_gpu.py::b": told}, "skipped": []})
    lines = on_gpu.summary(tmp_path, {"tests": ended}).splitlines()
    assert lines[0].startswith("tests  code time was up, ")
    assert lines[1] == "smoke: 2 checks, wrong: ['sampled, float32, 64 channels']; {}"
    assert lines[2:] == ["tests: 1 passed, 1 failed, 0 skipped", "  FAILED test_gpu.py::b: E   AssertionError: 3"]
    with pytest.raises(SystemExit, match="--parts must name some of smoke, tests"):
        on_gpu.main(["--parts", "nothing", "--out", str(tmp_path / "out")])


def test_plans_in_architectures_of_timm(timm, tmp_path, capsys):
    zoo = script("timm_architectures")
    names = zoo.ARCHITECTURES.split()
    assert len(set(names)) == len(names) == 66
    path = tmp_path / "found.json"
    few = ["lcnet_050", "tf_mobilenetv3_small_075", "nf_regnet_b0", "mixer_s32_224"]
    zoo.main([str(path), *few])
    found = json.loads(path.read_text())
    assert [(row["architecture"], row["plan"]) for row in found["rows"]] == [(n, p) for n in few for p in zoo.PLANS]
    assert found["outcomes"] == {plan: {"sound": 3, "no 3x3 convolution": 1} for plan in zoo.PLANS}
    folded = {
        row["architecture"]: row["folded"] for row in found["rows"] if row.get("layers") and row["plan"] == "log_polar"
    }
    assert folded == {"lcnet_050": 7, "tf_mobilenetv3_small_075": 4, "nf_regnet_b0": 17}
    zoo.main([str(path), *few])
    assert len(capsys.readouterr().out.splitlines()) == len(found["rows"]), "nothing is done twice"


def test_what_was_found_in_architectures_of_timm():
    zoo = script("timm_architectures")
    found = json.loads((FOLDER.parent / "docs" / "results" / "timm_architectures.json").read_text())
    assert {row["architecture"] for row in found["rows"]} == set(zoo.ARCHITECTURES.split())
    assert len(found["rows"]) == 2 * 66
    assert {row["outcome"] for row in found["rows"]} <= {"sound", "no 3x3 convolution", "refused"}


@pytest.mark.slow
def test_plans_in_all_of_these_architectures(timm, tmp_path):
    zoo = script("timm_architectures")
    zoo.main([str(tmp_path / "found.json")])
    outcomes = json.loads((tmp_path / "found.json").read_text())["outcomes"]
    kept = json.loads((FOLDER.parent / "docs" / "results" / "timm_architectures.json").read_text())
    assert outcomes == kept["outcomes"]


def test_rules_are_fitted_from_what_was_measured(monkeypatch):
    """The kept file gives the figures that CONTRIBUTING shows, and measuring writes such rows."""
    rules = script("fit_rules")
    kept = json.loads((FOLDER / "results" / "rules" / "cpu_avx2_amd_epyc.json").read_text())
    page = (FOLDER.parent / "CONTRIBUTING.md").read_text()
    verdicts = [line for line in rules.fit([kept]) if " held-out shapes " in line]
    assert len(verdicts) == 14
    for now, fitted in zip(verdicts[::2], verdicts[1::2], strict=True):
        name = now.partition(" in force: ")[0].split(",")[0]
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
        for line in (now, fitted):
            close, mean = re.search(r"(\d+%) within .*, ([\d.]+%) slower", line).groups()
            assert f"{close[:-1]} %" in row, line
            assert f"{mean[:-1]} %" in row, line
    monkeypatch.setattr(rules, "SIDES", (4,))
    monkeypatch.setattr(rules, "CHANNELS", (1, 3, 8))
    rows = list(rules._ways(4, 0.0))
    assert [row["depthwise"] for row in rows] == [False] * 3 + [True]
    assert rows[0].keys() == kept["ways"][0].keys()
    assert all(time > 0 for row in rows for time in row["us"].values())


def test_rules_lose_nothing_where_one_way_is_always_best():
    rules = script("fit_rules")
    rows = [{"taps": taps, "columns": 13, "us": {"kernel": 1.0, "dense": 2.0}} for taps in (25, 81, 169, 225)]
    now, fitted = rules._verdict("SHARE", rows, rules._by_share, 100.0, [0.5, 50.0])
    assert "in force: 100.0; on 2 held-out shapes 0% within 5% of the best choice, 100.0% slower in the mean" in now
    assert "fitted: 0.5; on 2 held-out shapes 100% within 5% of the best choice, 0.0% slower in the mean" in fitted
