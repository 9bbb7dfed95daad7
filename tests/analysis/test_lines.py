"""Every line that messages, captions and the page advise is a command that there is, with options that it has."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import analysis
from analysis import cli as analyze
from training import cli as train

PROGRAMS = {"train": typer.main.get_command(train.app), "analyze": typer.main.get_command(analyze.app)}
ADVISED = re.compile(r"(?<!\w)['`]((?:train|analyze) [^'`]*)['`]")


def lines() -> list[tuple[str, str]]:
    """(file, line) of all texts of the package that are shown, values left out."""
    found = []
    for path in Path(analysis.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            found += [(path.name, line) for line in ADVISED.findall(text) if len(line.split()) > 2]
    return sorted(set(found))


def fault(line: str) -> str:
    """What is wrong with a line; nothing if it can be typed with RUN, SHARDS and the like filled in."""
    program, name, *words = shlex.split(line)
    command = PROGRAMS[program].commands.get(name)  # type: ignore[attr-defined]
    if command is None:
        return f"{program} has no {name}"
    options = {option: each for each in command.params for option in each.opts if option.startswith("--")}
    given = {word for word in words if word.startswith("--")}
    lacking = [each.opts[0] for each in command.params if each.required and each.opts[0].startswith("--")]
    if unknown := given - set(options):
        return f"{name} has no {unknown}"
    if missing := set(lacking) - given:
        return f"{name} needs {missing}"
    takes_argument = any(each.required and not each.opts[0].startswith("--") for each in command.params)
    return f"{name} needs an argument" if takes_argument and (not words or words[0].startswith("--")) else ""


@pytest.mark.parametrize(("file", "line"), lines(), ids=lambda text: text[:60])
def test_an_advised_line_can_be_typed(file: str, line: str) -> None:
    assert not fault(line), f"{file}: '{line}'"


def test_lines_that_cannot_be_typed_are_found() -> None:
    assert "no {'--image'}" in fault("train dump RUN --data D --image 5")
    assert "needs {'--data'}" in fault("train dump RUN")
    assert "no drop" in fault("train drop RUN") and "argument" in fault("train dump --data D")
