"""Make the table of docs/gpu.md from benchmarks/results/gpu/*.json, or from the bars alone: python docs/gpu.py."""

import json
import re
from pathlib import Path

from foveal.bench import gpu

HERE = Path(__file__).parent
PAGE = HERE / "gpu.md"
RESULTS = HERE.parent / "benchmarks" / "results" / "gpu"


def table() -> str:
    """The figures of each card that was measured, as Markdown; without any, which cases there are."""
    lines = []
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        where = found["environment"]
        lines += [f"{where['gpu']}, PyTorch {where['torch']}, Triton {where['triton']}, {path.name}:", ""]
        lines += ["| measured | beside | figure | goal | |", "|---|---|---|---|---|"]
        for row in found["rows"]:
            met = {True: "met", False: "not met", None: ""}[row["met"]]
            lines.append(
                f"| {row['title']} | {row['what']} | {row['figure']:.3g} {row['unit']} | {row['bar'] or ''} | {met} |"
            )
    if lines:
        return "\n".join(lines)
    lines = ["| case of `foveal bench --device cuda` | what is measured | figure |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {case.title} | not measured |" for name, case in gpu.CASES.items()])


def page() -> str:
    """The page with its table made anew."""
    return re.sub(
        r"(<!-- gpu:[^\n]*-->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{table()}\n{m[2]}",
        PAGE.read_text(),
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(page())
