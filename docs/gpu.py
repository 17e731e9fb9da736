"""Make the tables of docs/gpu.md from benchmarks/results/gpu, card by card: python docs/gpu.py.

A card is a folder of what benchmarks/on_gpu.sh wrote (smoke, tests, bench, tiles, speed, train), or one file of
`foveal bench --device cuda --json`. What is not there was not measured.
"""

import csv
import io
import json
import re
import statistics
from pathlib import Path

from foveal.bench import gpu

HERE = Path(__file__).parent
PAGE = HERE / "gpu.md"
RESULTS = HERE.parent / "benchmarks" / "results" / "gpu"
PARTS = ("smoke", "tests", "bench", "tiles", "speed", "train")


def cards():
    """Each card's parts, by the name of its folder or file."""
    found = {path.stem: {"bench": json.loads(path.read_text())} for path in sorted(RESULTS.glob("*.json"))}
    for folder in sorted(path for path in RESULTS.glob("*") if path.is_dir()):
        files = {part: folder / f"{part}.json" for part in PARTS}
        found[folder.name] = {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}
    return found


def machine(parts):
    where = {**parts.get("smoke", {}).get("environment", {}), **parts.get("bench", {}).get("environment", {})}
    return f"{where.get('gpu', 'card unknown')}, PyTorch {where.get('torch')}, Triton {where.get('triton')}"


def smoke(found):
    card, host = (found["figures"].get(name, {}) for name in ("card", "host"))
    lines = []
    if "copy_bytes_per_s" in card:
        copy, product = card["copy_bytes_per_s"] / 1e12, card["bfloat16_flops"] / 1e12
        lines += [f"A large copy moves {copy:.2f} TB/s, a large product in bfloat16 does {product:.0f} TFLOP/s.", ""]
    if host:
        lines += ["| call on a map of 7 x 7 pixels, 64 channels | us of the host |", "|---|---|"]
        lines += [f"| {name} | {value:.0f} |" for name, value in host.items() if isinstance(value, float)]
    return lines


def tests(found):
    done = "" if found["finished"] else ", cut off"
    lines = [f"`pytest -m gpu`: {len(found['passed'])} passed, {len(found['failed'])} failed{done}."]
    return lines + [f"- failed: `{name}`" for name in found["failed"]]


def bench(found):
    lines = ["| measured | beside | ours, ms | figure | goal | |", "|---|---|---|---|---|---|"]
    for row in found["rows"]:
        met = {True: "met", False: "not met", None: ""}[row["met"]]
        ours = "" if row["ours_ms"] is None else f"{row['ours_ms']:.3g}"
        figure = f"{row['figure']:.3g} {row['unit']}"
        lines.append(f"| {row['title']} | {row['what']} | {ours} | {figure} | {row['bar'] or ''} | {met} |")
    lines += [f"| {gpu.CASES[name].title} | | | failed: {reason} | | |" for name, reason in found["failed"].items()]
    measured = {row["case"] for row in found["rows"]} | set(found["failed"])
    return lines + [
        f"| {case.title} | | | not measured | | |" for name, case in gpu.CASES.items() if name not in measured
    ]


def tiles(found):
    lines = ["| kernel | the rule's tile, ms | best tile, ms | |", "|---|---|---|---|"]
    for part in found["tiles"]:
        timed = [row for row in part["rows"] if "ms" in row]
        rule = next((f"{row['ms']:.3g}" for row in timed if row["tile"] is None), "does not run")
        best = timed[0]["tile"] or "the rule's"
        sides = best if isinstance(best, str) else " x ".join(map(str, best.values()))
        lines.append(f"| {part['case']}, {part['kernel']} | {rule} | {timed[0]['ms']:.3g} | {sides} |")
    return lines


def runs(found):
    jobs = {word: job["job"] for job in found["jobs"] for word in job["job"].split() if word.startswith("speed")}
    lines = ["| run | seeds | test accuracy, % | best epoch, % | published | images/s |", "|---|---|---|---|---|---|"]
    for name, table in found["tables"].items():
        how = [
            f" {word}"
            for word in jobs.get(name, "").split()
            if "=" in word and "epochs" not in word and "milestones" not in word
        ]
        for row in table["rows"] if isinstance(table, dict) else []:
            ended = [run for run in row["runs"] if run.get("state") == "finished"]
            if not ended:
                continue
            accuracies = [
                f"{100 * sum(run[key] for run in ended) / len(ended):.2f}"
                for key in ("test_accuracy", "best_test_accuracy")
            ]
            published = (row["published"] or {}).get("accuracy") or ""
            paces = sorted(run["train_images_per_s"] or 0 for run in ended)
            differs = [f"; {what}" for what in row["differs"] if "milestones" not in what and "data.name" not in what]
            told = f"{row['title']}{''.join(differs)}, {ended[0]['epochs']} epochs{''.join(how)}"
            lines.append(
                f"| {told} | {len(ended)} | {' | '.join(accuracies)} | {published} | {paces[len(paces) // 2]:,.0f} |"
            )
    return lines


def unfinished(found):
    """Runs that were cut off: accuracies at the last epoch that all of them reached."""
    curves = {name: list(csv.DictReader(io.StringIO(text))) for name, text in found.get("curves", {}).items()}
    curves = {name: rows for name, rows in curves.items() if rows and "test_accuracy" in rows[0]}
    if not curves or any(isinstance(table, dict) and "lpsc" in name for name, table in found["tables"].items()):
        return []
    last = min(map(len, curves.values()))
    groups = {}
    for name, rows in sorted(curves.items()):
        recent = [float(row["test_accuracy"]) for row in rows[last - 8 : last]]
        pace = float(rows[last - 1]["images_per_s"])
        groups.setdefault(name.split("/")[1].removesuffix("-changed"), []).append((statistics.mean(recent), pace))
    lines = [
        f"Cut off before their end: {len(curves)} runs side by side, each as it stood after {last} epochs. The mean test accuracy "
        f"of epochs {last - 7} to {last}, its mean and deviation over seeds:",
        "",
        "| row | seeds | accuracy, % | images/s of each |",
        "|---|---|---|---|",
    ]
    for name, seen in groups.items():
        values = [100 * value for value, _ in seen]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        pace = statistics.median(pace for _, pace in seen)
        lines.append(f"| `{name}` | {len(seen)} | {statistics.mean(values):.2f}{spread} | {pace:,.0f} |")
    return lines


def trained(found):
    return [*runs(found), "", *unfinished(found)]


MAKERS = {"smoke": smoke, "tests": tests, "bench": bench, "tiles": tiles, "speed": runs, "train": trained}


def table():
    """The figures of each card that was measured, as Markdown; without any, which cases there are."""
    lines = []
    for parts in cards().values():
        lines += [f"### {machine(parts)}", ""]
        for part in PARTS:
            lines += [*(MAKERS[part](parts[part]) if part in parts else [f"{part}: not measured"]), ""]
    if lines:
        return "\n".join(lines).rstrip()
    lines = ["| case of `foveal bench --device cuda` | what is measured | figure |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {case.title} | not measured |" for name, case in gpu.CASES.items()])


def page():
    """The page with its tables made anew."""
    return re.sub(
        r"(<!-- gpu:[^\n]*-->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{table()}\n{m[2]}",
        PAGE.read_text(),
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(page())
