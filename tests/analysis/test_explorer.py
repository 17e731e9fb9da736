"""The explorer in a real browser: its maths is Python's, what it shows to copy gives what it shows, and it has no error of its own."""

import html
import json
import math
import random
import re
import shutil
import subprocess

import pytest
import torch
import yaml

import foveal
from foveal.analysis import cost, explorer, multiply_adds
from foveal.geometry import LogPolarMap, log_polar_bins, scaled_taps, squared_limits

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def in_browser(folder, script, *, page=None, width=1280):
    """What a script, run after the page in a frame so wide, hands to ``give``; with errors and what the console says."""
    watch = (
        "<script>const wrong = [];"
        "for (const kind of ['error', 'unhandledrejection']) addEventListener(kind, (e) => wrong.push(String(e.message ?? e.reason)));"
        "for (const kind of ['error', 'warn']) console[kind] = (...all) => wrong.push(all.join(' '));</script>"
    )
    tell = (
        "<script>const give = (value) => { parent.document.body.insertAdjacentHTML('beforeend',"
        " '<pre id=told>' + JSON.stringify([value, wrong]).replaceAll('&', '&amp;').replaceAll('<', '&lt;') + '</pre>'); };"
        f"\n{script}</script>"
    )
    inner = (explorer() if page is None else page).replace("<head>", f"<head>{watch}", 1) + tell
    frame = f'<iframe width="{width}" height="900" srcdoc="{html.escape(inner)}"></iframe>'
    path = folder / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{frame}</body>", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *options, "--virtual-time-budget=10000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre id=\"?told\"?>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    value, wrong = json.loads(html.unescape(found[1]))
    assert wrong == []
    return value


def maths_page():
    """The page's maths alone."""
    found = re.search(r'<script id="maths">.*?</script>', explorer(), re.DOTALL)
    return f"<!doctype html><html><head></head><body>{found[0]}</body></html>"


def settings(count):
    """Of all kinds, many of them with taps on limits and borders."""
    draw = random.Random(0)
    for _ in range(count):
        sides = [2 * draw.randrange(16) + 1 for _ in range(2)]
        angular = draw.randrange(1, 25)
        turns = [0.0, math.pi / angular, math.pi / 4, -math.pi / 2, draw.uniform(-7, 7), round(draw.uniform(-4, 4), 4)]
        yield {
            "kernel_size": draw.choice([sides[0], sides]),
            "radial_bins": draw.randrange(1, 7),
            "angular_bins": angular,
            "growth_rate": draw.choice([2, 2.0, 3, 4.0, 1.1, round(draw.uniform(1.05, 9), 2), draw.uniform(1.01, 9)]),
            "rotation": draw.choice(turns),
            "aspect_ratio": draw.choice([None, None, 1, 0.5, 2.0, draw.uniform(0.2, 4)]),
            "support": draw.choice(["disk", "square"]),
            "center": draw.choice(["own", "bin", "none"]),
        }


def test_the_page_is_whole_in_itself():
    page = explorer()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|import)\s*\(|@import|url\(", page)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
class TestInABrowser:
    def test_bins_are_those_of_python(self, tmp_path):
        asked = list(settings(300))
        script = f"give({json.dumps(asked)}.map((s) => maths.logPolarBins(s)));"
        told = in_browser(tmp_path, script, page=maths_page())
        assert len(told) == 300
        for one, page in zip(asked, told, strict=True):
            bins = log_polar_bins(**one)
            assert page["bins"] == bins.tolist(), one
            named = {key: value for key, value in one.items() if key != "kernel_size"}
            rule = LogPolarMap(**named)
            assert page["columns"] == rule.columns
            assert page["population"] == rule.population(one["kernel_size"]).tolist()
            radius = (max(bins.shape) - 1) / 2
            assert page["limits"] == pytest.approx(squared_limits(radius, rule.radial_bins, rule.growth_rate), 1e-12)

    def test_taps_are_those_of_python(self, tmp_path):
        draw = random.Random(1)
        asked = [
            (
                draw.choice([draw.randrange(1, 8), [draw.randrange(1, 6), draw.randrange(1, 6)]]),
                draw.choice([[1, 2], [1], [0.1, 0.3, 3], [draw.uniform(0.1, 9) for _ in range(draw.randrange(1, 5))]]),
                draw.randrange(1, 5),
            )
            for _ in range(300)
        ]
        script = f"give({json.dumps(asked)}.map((s) => maths.scaledTaps(...s)));"
        told = in_browser(tmp_path, script, page=maths_page())
        assert len(told) == 300
        for one, page in zip(asked, told, strict=True):
            assert page == scaled_taps(*one).tolist(), one  # float32, exactly

    def test_rules_are_those_of_python(self, tmp_path):
        good = {"kernel_size": 9, "radial_bins": 2, "angular_bins": 6, "growth_rate": 3, "rotation": 0}
        good |= {"aspect_ratio": None, "support": "disk", "center": "own"}
        bad = {
            "kernel_size": [8, 0, -3, 2.5, [9, 4]],
            "radial_bins": [0, -1, 1.5],
            "angular_bins": [0, 2.5],
            "growth_rate": [1, 0.5, -2, 0.00005],
            "aspect_ratio": [0, -1.5],
            "support": ["round"],
            "center": ["both"],
        }
        asked = [good | {key: value} for key, values in bad.items() for value in values]
        asked.append(good | {"radial_bins": 1, "growth_rate": 0})
        catch = "(f) => { try { f(); return null; } catch (error) { return error.message; } }"
        scales = [[0], [-1.5], [1, 0]]
        script = (
            f"const caught = {catch}; give([{json.dumps(asked)}.map((s) => caught(() => maths.logPolarBins(s))),"
            f"{json.dumps(scales)}.map((s) => caught(() => maths.scaledTaps(3, s))),"
            " [caught(() => maths.logPolarBins({...%s, growth_rate: NaN})), caught(() => maths.offsetBounds('floor', [2, 2], 1)),"
            " caught(() => maths.offsetBounds(-1, [1, 2], 1))]]);" % json.dumps(good)
        )
        maps, taps, others = in_browser(tmp_path, script, page=maths_page())

        def told(make):
            with pytest.raises(ValueError, match="must be") as error:
                make()
            return str(error.value)

        for one, page in zip(asked, maps, strict=True):
            one = {key: tuple(value) if isinstance(value, list) else value for key, value in one.items()}
            assert page == told(lambda one=one: log_polar_bins(**one))
        for one, page in zip(scales, taps, strict=True):
            assert page == told(lambda one=one: scaled_taps(3, one))
        assert others == [
            told(lambda: log_polar_bins(9, 2, 6, math.nan)),
            told(lambda: foveal.AnisotropicConv2d(2, 2, scales=(2, 2))),
            told(lambda: foveal.AnisotropicConv2d(2, 2, offset_bound=-1)),
        ]

    @pytest.mark.parametrize("width", [1280, 390])
    def test_what_is_copied_gives_what_is_seen(self, tmp_path, width):
        script = """
        const set = (id, value) => {
          const field = $(id);
          if (field.type === "checkbox") field.checked = value; else field.value = value;
          field.dispatchEvent(new Event(field.type === "range" || field.type === "number" ? "input" : "change"));
        };
        const seen = (map) => ({
          python: $("python").textContent, plan: $("plan").textContent, rule: $("rule").textContent, map, taps: state.kind === "log_polar" ? null : read(),
          costs: [...$("costs").querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")].map((cell) => Number(cell.textContent.replaceAll(",", "")))),
          wide: document.documentElement.scrollWidth - innerWidth,
        });
        const all = [];
        const bins = () => maths.logPolarBins(logPolar()).bins;
        all.push(seen(bins()));
        set("square", false); set("height", 7); set("width", 13); set("radial_bins", 3); set("angular_bins", 7); set("growth_rate", 2.5);
        set("degrees", 33); set("ellipse", true); set("aspect_ratio", 0.75); set("support", "square"); set("center", "none");
        all.push(seen(bins()));
        set("height-exact", 8); all.push(seen(null)); set("height", 9);
        set("center", "bin"); set("in_channels-exact", 5); set("out_channels-exact", 12); all.push(seen(bins()));
        const key = (target, name) => target.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
        const start = [state.row, state.column];
        key($("image"), "ArrowUp"); key($("image"), "ArrowRight");
        const moved = [state.row - start[0], state.column - start[1]];
        key($("tab-log_polar"), "ArrowRight");
        const read = () => maths.scaledTaps(state.side, scales(), state.dilation).map((points) => points.map((p) => p.map((x) => x + (state.side - 1) * state.dilation / 2 % 1)));
        const offsets = () => maths.offsetBounds(bound(), scales(), state.dilation).map((most, s) => Array.from({ length: state.side ** 2 }, (_, t) => offsetOf(s, t, most)));
        all.push(seen(offsets()));
        key($("kernel").querySelector("[data-tap='1 0']"), "ArrowDown");
        all.push(seen(offsets()));
        set("bound", "half"); set("count", 3); set("scale2", 4.5); set("fuse", "concat"); set("dilation", 2); $("shaken").click();
        all.push(seen(offsets()));
        $("again").click();
        $("kernel").querySelector("[data-tap='2 8']").dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, cancelable: true }));
        dispatchEvent(new PointerEvent("pointermove", { clientX: 0, clientY: 0 }));
        dispatchEvent(new PointerEvent("pointerup"));
        all.push(seen(offsets()));
        set("bound", "none"); set("fuse", "sum"); set("side", 2); $("shaken").click();
        all.push(seen(offsets()));
        set("dilation", 1); all.push(seen(offsets()));
        $("theme").click();
        give({ all, moved });
        """
        told = in_browser(tmp_path, script, width=width)
        assert told["moved"] == [-1, 1]
        shown = told["all"]
        assert len(shown) == 10
        assert all(one["wide"] <= 0 for one in shown), "nothing is wider than the screen"
        broken = shown.pop(2)
        rule = "kernel_size must be a positive odd number or a pair of them, so that the window has a centre tap; got (8, 13)"
        assert broken["rule"] == rule
        assert broken["python"] == broken["plan"] == f"# {rule}"
        for one in shown:
            assert one["rule"] == ""
            space = {}
            exec(one["python"], space)
            layer = space["layer"]
            plan = yaml.safe_load(one["plan"])
            model = torch.nn.Sequential()
            model.add_module("conv1", torch.nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1))
            planned = foveal.convert(model, plan).conv1
            size = (layer.in_channels, 6, 6)
            counted = multiply_adds(layer, size)
            positions = layer(torch.zeros(1, *size)).shape[2:].numel()
            per_position = [counted.without_pooling / positions, counted.pooling_additions / positions]
            assert one["costs"][0] == [cost(layer, size, latency=False).params, *per_position]
            if "LogPolarConv2d" in one["python"]:
                assert layer.bins.tolist() == planned.bins.tolist() == one["map"]
                dense = torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size)
                assert one["costs"][1][0] == sum(p.numel() for p in dense.parameters())
                continue
            assert repr(planned) == repr(layer)
            assert planned.taps.tolist() == layer.taps.tolist() == one["taps"]
            for given, seen in zip(layer.offsets(torch.zeros(1, *size)), one["map"], strict=True):
                seen = torch.tensor(seen).float().flatten()
                if given is None:
                    assert not seen.any()
                else:
                    torch.testing.assert_close(given[0, :, 0, 0], seen, atol=2e-5, rtol=0)
        assert any(value for point in shown[5]["map"][2] for value in point)
        bounded = [max(abs(v) for p in points for v in p) for points in shown[5]["map"]]
        assert all(most < bound for most, bound in zip(bounded, (1, 2, 4.5), strict=True))
        dragged = shown[6]["map"]
        assert [[s, t] for s, points in enumerate(dragged) for t, p in enumerate(points) if any(p)] == [[2, 8]]
