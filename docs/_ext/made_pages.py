"""Pages made while the site is built: the recipe's keys from their schema, the command line from its help."""

import importlib
import inspect
import re
import types
import typing

from docutils import nodes
from docutils.statemachine import StringList
from pydantic_core import PydanticUndefined
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

SECTIONS = {
    "the row": ("", "foveal.recipes.schema", "Recipe"),
    "data": ("data.", "foveal.data.section", "Data"),
    "augmentation": ("data.augment.", "foveal.data.section", "Augment"),
    "training": ("train.", "foveal.recipes.schema", "Train"),
    "published numbers": ("published.", "foveal.recipes.schema", "Published"),
    "claims": ("claims[].", "foveal.recipes.schema", "Claim"),
    "the quick form": ("quick.", "foveal.recipes.schema", "Quick"),
    "files": ("data.files[].", "foveal.data.section", "File"),
}
"""What a page may ask for: the prefix of its keys, and the class that holds them."""
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "keys and values"}
LIMITS = (("ge", "from {}"), ("gt", "above {}"), ("le", "up to {}"), ("lt", "below {}"), ("min_length", "{} or more"))


def describe(annotation, metadata=()):
    """A type in words: "whole number from 1", "`sgd` or `adam`"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return describe(arguments[0], [*arguments[1:], *metadata])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(one, metadata) for one in arguments if one is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is list:
        return f"list, each {describe(arguments[0])}"
    plain = origin or annotation
    told = WORDS.get(plain, "keys of its own, below")
    if plain in (int, float):
        bounds = [text.format(f"{value:g}") for one in flat(metadata) for text, value in bounds_of(one)]
        return " ".join([told, *bounds])
    return told


def flat(metadata):
    for one in metadata:
        yield from flat(one.metadata) if hasattr(one, "annotation") and hasattr(one, "metadata") else [one]


def bounds_of(one):
    return [(text, getattr(one, key)) for key, text in LIMITS[:4] if getattr(one, key, None) is not None]


def default_of(field):
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == "" or value is PydanticUndefined:
        return "default none"
    if hasattr(value, "model_dump"):
        return "default that of its keys"
    shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"default `{shown}`"


def taken_by():
    """For each key that not every task of foveal acts on, the tasks that do."""
    create = importlib.import_module("foveal.tasks.create")
    keys = importlib.import_module("foveal.data.section").OF_TASKS
    found = {key: [name for name, task in create.TASKS.items() if key in task.takes] for key in keys}
    return {key: tasks for key, tasks in found.items() if len(tasks) < len(create.TASKS)}


def documentation(model):
    """The docstring of each field, looked for where the field is stated."""
    for cls in model.__mro__:
        if cls.__module__.startswith("foveal."):
            for (owner, name), lines in ModuleAnalyzer.for_module(cls.__module__).find_attr_docs().items():
                if owner == cls.__name__:
                    yield name, " ".join(line.strip() for line in lines if line.strip())


def keys(section):
    """The keys of one section of a recipe, as a list of Markdown definitions."""
    prefix, module, name = SECTIONS[section]
    model = getattr(importlib.import_module(module), name)
    said, tasks = dict(documentation(model)), taken_by()
    lines = []
    for key, field in model.model_fields.items():
        full = prefix + key
        kind = describe(field.annotation, field.metadata)
        default = "default the file's name" if full == "name" else default_of(field)
        only = f"; of {', '.join(tasks[full])}" if full in tasks else ""
        lines += [f"`{full}` <span class='kind'>{kind}; {default}{only}</span>", f": {said[key]}", ""]
    return lines


def keys_of_tasks():
    """The keys of each task: the arguments of its constructor, as its docstring says them."""
    create = importlib.import_module("foveal.tasks.create")
    lines = []
    for name, task in create.TASKS.items():
        first = inspect.getdoc(task).split("\n")[0]
        lines += [f"**`{name}`**: {first}", ""]
        found = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(task), flags=re.DOTALL | re.MULTILINE)
        for key, text in re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", found[1], flags=re.DOTALL | re.MULTILINE):
            if key in create.keys_of_train(name):
                continue
            default = inspect.signature(task).parameters[key].default
            shown = "none" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
            said = " ".join(text.replace("``", "`").split())
            lines += [f"`task.{key}` <span class='kind'>default {shown}</span>", f": {said}", ""]
    return lines


def command_line():
    """Every command of `foveal`: what it does, its usage, its arguments and options."""
    import typer

    app = typer.main.get_command(importlib.import_module("foveal.cli.commands").app)
    lines = []
    top = app.make_context("foveal", [], resilient_parsing=True)
    for name in app.list_commands(top):
        command = app.get_command(top, name)
        context = command.make_context(f"foveal {name}", [], parent=top, resilient_parsing=True)
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## `foveal {name}`", "", *told(command.help), "", "```text", f"foveal {name} {usage}", "```", ""]
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record and parameter.name != "help":
                what, text = record
                lines += [f"`{what}`", f": {escaped(text) or '&nbsp;'}", ""]
    lines += ["## Exit codes", "", escaped(app.epilog)]
    return lines


def told(help):
    """A help text as paragraphs, its examples as commands."""
    paragraph = " ".join(escaped(help).split())
    text, *examples = re.split(r"\s*Example: ", paragraph)
    shown = [line for example in examples for line in ("", "```console", f"$ {plain(example)}", "```")]
    return [text, *shown]


def escaped(text):
    return re.sub(r"([*_\[\]<>])", r"\\\1", text or "")


def plain(text):
    return re.sub(r"\\([*_\[\]<>])", r"\1", text)


class Made(SphinxDirective):
    """What one of the functions above writes, read as Markdown."""

    def parse(self, lines):
        node = nodes.Element()
        node.document = self.state.document
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, node, match_titles=1)
        return node.children


class Keys(Made):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        what = self.arguments[0]
        return self.parse(keys_of_tasks() if what == "tasks" else keys(what))


class CommandLine(Made):
    def run(self):
        return self.parse(command_line())


def setup(app):
    app.add_directive("recipe-keys", Keys)
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
