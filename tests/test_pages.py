"""What the README and the pages show: code runs, commands and recipes are read, links lead somewhere, keys are documented."""

import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from foveal import LogPolarConv2d
from foveal.cli import app
from foveal.recipes.load import load_recipe
from foveal.tasks.create import TASKS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def blocks(page, *languages):
    return [text for language, text in FENCE.findall(PAGES[page]) if language in languages]


def pages_with(*languages):
    return [page for page in PAGES if blocks(page, *languages)]


def test_there_are_pages():
    assert len(PAGES) >= 45
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 30
    assert len(pages_with("python")) >= 17


FRAMEWORKS = "docs/frameworks.md"  # a program each, of packages that not everyone has


@pytest.mark.parametrize("page", [page for page in pages_with("python") if page != FRAMEWORKS])
def test_its_python_runs(page, tmp_path, monkeypatch, capsys, torchvision):
    """All blocks of a page, in their order, as one program in an empty folder; what is printed as a comment is printed."""
    pytest.importorskip("matplotlib", reason="needs the train extra")
    from foveal.models import create_model

    monkeypatch.chdir(tmp_path)
    pretrained = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(
        pretrained, "get_state_dict", lambda *_, **__: create_model("resnet18", num_classes=1000).state_dict()
    )
    names = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    prints_what_it_says(blocks(page, "python"), capsys.readouterr().out)


@pytest.mark.parametrize("block", blocks(FRAMEWORKS, "python"), ids=lambda block: block.split()[1].rstrip(","))
@pytest.mark.filterwarnings("ignore")
def test_it_trains_inside_other_frameworks(block, tmp_path, monkeypatch, capsys, torchvision):
    for line in re.findall(r"^import (.*)$", block, flags=re.MULTILINE):
        for name in line.split(" as ")[0].split(", "):
            pytest.importorskip(name, reason=f"needs {name}")
    monkeypatch.chdir(tmp_path)
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    exec(compile(block, FRAMEWORKS, "exec"), page.__dict__)
    prints_what_it_says([block], capsys.readouterr().out)


def prints_what_it_says(programs, out):
    assert "False" not in out
    for block in programs:
        for told in re.findall(r"^print\(.*  # (\S.*?)(?:;.*)?$", block, flags=re.MULTILINE):
            if re.match(r"torch\.Size|True$|\d|input ", told):
                assert told.partition(": ")[0] in out, told


def commands():
    """Every call of foveal in a block, in a line of a table or in running text, with its page."""
    for page, text in PAGES.items():
        lines = [line for block in blocks(page, "bash", "console") for line in block.replace("\\\n", " ").split("\n")]
        inside = "\n".join(lines)
        for quote in re.findall(r"'[^'\n]*\n[^'\n]*'", inside):  # an argument over several lines
            inside = inside.replace(quote, quote.replace("\n", " "))
        inline = re.findall(r"`(foveal [a-z]+ [^`]*)`", FENCE.sub("", text).replace("\n", " "))
        for line in [*inside.split("\n"), *inline]:
            found = re.search(r"(?:^|[ =&;.])(foveal +[a-z-].*)", line.strip())
            if found and "python -m sphinx" not in line:
                yield page, found[1]


COMMANDS = sorted(set(commands()))


def test_there_are_commands():
    assert len(COMMANDS) >= 85


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value[:60])
def test_its_command_is_one(page, line):
    """Read with all its options and their types by the command line itself, and not run."""
    import typer

    words = shlex.split(line.replace("...", " "), comments=True)[1:]
    for end in ("&", "&&", "|", ">"):
        words = words[: words.index(end)] if end in words else words
    program = typer.main.get_command(app)
    if words[0].startswith("--"):
        assert words[0] in ("--help", "--version", "--debug")
        return
    top = program.make_context("foveal", [], resilient_parsing=True)
    command = program.get_command(top, words[0])
    assert command is not None, f"{page}: foveal has no command {words[0]}"
    needs = any(word[0] not in "-" for word in words[1:]) or words[0] in ("bench", "doctor", "list", "tune", "choose")
    if needs and "COMMAND" not in words:
        command.make_context(words[0], words[1:], parent=top)
    else:  # a mention: its options at least are known
        command.make_context(words[0], words[1:], parent=top, resilient_parsing=True)


@pytest.mark.parametrize("page", pages_with("bash", "console"))
def test_the_scripts_of_its_commands_are_there(page):
    for block in blocks(page, "bash", "console"):
        for script in re.findall(
            r"(?:python3?|^\$|^) ?((?:\.ci|benchmarks|docs|examples)/\S+)", block, flags=re.MULTILINE
        ):
            assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", [page for page in pages_with("yaml") if "own_parts" not in page])
def test_its_recipes_are_some(page, tmp_path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "nets.py").write_text("def mine(num_classes): ...\n")
    for text in blocks(page, "yaml"):
        (tmp_path / "row.yaml").write_text(text)
        assert load_recipe(tmp_path / "row.yaml").train.epochs > 1


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page):
    text = FENCE.sub("", PAGES[page])
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), link
            if anchor:
                heads = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
                slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
                assert anchor in slugs, link


def test_every_page_is_reached():
    """By a table of contents, or included by a page that is."""
    listed = set()
    for page in [page for page in PAGES if page.startswith("docs/")]:
        for toctree in re.findall(r"```\{toctree\}\n(.*?)```", PAGES[page], flags=re.DOTALL):
            listed |= {
                os.path.normpath(Path(page).parent / line) for line in toctree.split("\n") if line and line[0] != ":"
            }
    missing = {page for page in PAGES if page.startswith("docs/")} - {f"{name}.md" for name in listed}
    assert missing == {"docs/index.md"}


def test_cures_are_for_messages_that_there_are():
    """Of the tables on the page of errors, every message in code stands in a source; those of other programs are named here."""
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message over several lines
    with pytest.raises(ValueError, match="growth_rate") as error:  # its words are put together
        LogPolarConv2d(3, 4, 5, growth_rate=1.0)
    sources += str(error.value)
    others = {"externally-managed-environment", "foveal doctor"}
    told = [
        message
        for line in PAGES["docs/errors.md"].split("\n")
        if line.startswith("| ") and not line.startswith(("| message", "| what"))
        for message in re.findall(r"`([^`]+)`", line.split(" | ")[0])
    ]
    assert len(told) >= 15
    for message in told:
        assert message in sources or message in others, message


def test_every_key_of_a_recipe_is_documented():
    """The page of keys is made from these: each key has a text, and each task says its own."""
    ModuleAnalyzer = pytest.importorskip("sphinx.pycode", reason="needs the docs extra").ModuleAnalyzer

    from foveal.data import section
    from foveal.recipes import schema

    seen = 0
    for module, models in (
        (schema, ("Recipe", "Train", "Published", "Claim", "Quick")),
        (section, ("Data", "Augment")),
    ):
        said = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
        for model in (getattr(module, name) for name in models):
            for key in model.model_fields:
                assert any((cls.__name__, key) in said for cls in model.__mro__), f"{model.__name__}.{key}"
                seen += 1
    assert seen >= 80
    for task in TASKS.values():
        assert "Args:" in (task.__doc__ or "")
