"""README and docs tell the truth: every block runs on small data or says what it needs, every file named is there.

A block that cannot run here is marked, in the line above it: `<!-- needs data: why -->`. Its lines of ours are parsed
all the same, so that a command or option that is gone is found.
"""

import glob
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from running import ROOT, command
from typer.core import TyperCommand, TyperGroup

from pipeline.sources.rgbd import reading
from training.study import config

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
OURS = {"precompute-depth": "pipeline", "train": "training", "analyze": "analysis"}
TRAINS = ("pretrain", "finetune", "teacher", "depth", "task", "study")
OTHERS = {"--nproc-per-node", "--ntasks"}  # options of torchrun and srun
FOLDERS = ("pipeline", "training", "analysis", "data_manifests", "docs", "tests")
NOTEBOOK = ROOT / "docs" / "study.ipynb"

STUDY = """
data = "demo/shards"
pairs = "demo/pairs"
preset = "tiny"
settings = ["optim.epochs=1"]
[dump]
images = 48
causal = 16
raw = 4
checkpoints = ["epoch-0"]
[[runs]]
models = ["m3ch", "m4ch"]
depths = ["pseudo"]
seeds = [0]
stages = ["dump"]
[matrix]
data = "demo/shards"
preset = "tiny"
settings = ["optim.epochs=1", "optim.steps_per_epoch=4", "select.every=1"]
[[matrix.runs]]
models = ["m4ch"]
depths = ["pseudo"]
seeds = [0]
"""


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    marked: bool


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in re.finditer(r"(<!-- needs data: [^>\n]+ -->\n)?```(\w*)\n(.*?)```", text, flags=re.DOTALL):
        line = text[: found.start(2)].count("\n") + 1
        yield Block(str(page.relative_to(ROOT)), line, found[2], found[3], found[1] is not None)


def lines_of(block: Block) -> list[list[str]]:
    """Its commands as words, comments and what follows a redirection left out."""
    whole = block.text.replace("\\\n", " ").splitlines()
    return [words for line in whole if (words := shlex.split(line.partition(" > ")[0], comments=True))]


def parsed(words: list[str]) -> None:
    """As the command's own parser does, nothing is run."""
    group = typer.main.get_command(import_module(f"{OURS[words[0]]}.cli").app)
    context, rest = typer.Context(group), words[1:]
    while isinstance(group, TyperGroup):
        assert rest[0] in group.commands, f"{words[0]} has no command {rest[0]}"
        group, rest = group.commands[rest[0]], rest[1:]
    group.make_context(words[0], list(rest), parent=context)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a reader has after `make demo`, small, and forty photographs of their own."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("reader")
    for name in ("training", "tests"):
        (folder / name).symlink_to(ROOT / name)
    for name, image in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20):
            crop = image[9 * number : 9 * number + 200, 15 * number : 15 * number + 300]
            Image.fromarray(crop).save(folder / "photos" / name / f"{number}.jpg")
    (folder / "small.toml").write_text(STUDY)
    (folder / "docs").mkdir()
    rooms = ("precompute-depth", "toyrooms")
    before = Path.cwd()
    os.chdir(folder)
    ran((*rooms, "demo/shards", "--teacher", "toy", "--samples", "160", "--val-samples", "64"))
    ran((*rooms, "demo/pairs", "--teacher", "toy", "--samples", "12", "--val-samples", "8", "--seed", "1",
         "--stats-from", "demo/shards"))  # fmt: skip
    ran(("train", "study", "small.toml", "--out", "demo"))
    yield folder
    os.chdir(before)


def ran(words: tuple[str, ...] | list[str]) -> None:
    done = command(*words)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


def run_lines(block: Block) -> None:
    """A line that trains tries it only, unless a later one reads the run; all others do what they say."""
    lines = lines_of(block)
    for place, words in enumerate(lines):
        if words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            continue
        assert words[0] in OURS, f"{words[0]} is no command of ours: mark the block"
        words = [each for word in words for each in sorted(glob.glob(word)) or [word]]
        later = {word for line in lines[place + 1 :] for word in line}
        tried = {"--dry-run", "--slurm"} & set(words)
        if (
            words[:1] == ["train"]
            and words[1] in TRAINS
            and not tried
            and not later & set(words[words.index("--out") :])
        ):
            words.append("--dry-run")
        ran(words)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Exception ignored in")  # webdataset leaves tars open
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks(page: Path, place: Path) -> None:
    """All of a page, in its order."""
    assert page.read_text("utf-8").count("```") == 2 * len(list(blocks_of(page)))
    for block in blocks_of(page):
        print(f"{block.page}:{block.line}")
        if block.language == "toml" and block.text.startswith("[depth."):  # a part of the page's description
            whole = (place / "my-sensor.toml").read_text() + block.text
            reading.load(str(written(place / "with-block.toml", whole)))
        elif block.language == "toml" and block.text.startswith("name = "):
            reading.load(str(written(place / "whole.toml", block.text)))
        elif block.language == "toml":
            config.read(written(place / "block.toml", block.text))
        elif block.language == "text":
            check_tree(block.text)
        elif block.marked:
            check_words(block)
        elif block.language == "python":
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {"__name__": "__main__"})
        else:
            assert block.language == "bash", "a block is bash, python, toml or text"
            run_lines(block)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def check_words(block: Block) -> None:
    """Of lines that cannot run here: what follows torchrun or srun, too."""
    for words in lines_of(block):
        for word in words:
            assert not word.startswith(tuple(f"{folder}/" for folder in FOLDERS)) or (ROOT / word).exists(), word
        if words[0] in OURS:
            parsed(words)
        elif words[0] == "srun":
            parsed(words[1:])
        elif "-m" in words and words[0] == "torchrun":
            start = words.index("-m") + 1
            name = next(name for name, package in OURS.items() if words[start] == f"{package}.cli")
            parsed([name, *words[start + 1 :]])


def check_tree(text: str) -> None:
    for line in text.splitlines():
        assert (ROOT / line.split()[0]).exists(), line


def prose_of(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_and_links_that_are_named_are_there(page: Path) -> None:
    prose = prose_of(page)
    for named in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]*)`", prose):
        if not re.search(r"NAME|TASK|PRESET|SUBJECT", named):
            assert (ROOT / named).exists(), f"{page.name} names {named}"
    for link in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def options_of(group: TyperGroup | TyperCommand) -> set[str]:
    own = {name for each in group.params for name in each.opts}
    below = group.commands.values() if isinstance(group, TyperGroup) else ()
    return own.union(*map(options_of, below))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_options_that_are_named_are_there(page: Path) -> None:
    known = set(OTHERS)
    for package in OURS.values():
        known |= options_of(typer.main.get_command(import_module(f"{package}.cli").app))
    for code in re.findall(r"`([^`]+)`", prose_of(page)):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)) <= known | {"--help"}, code


@pytest.mark.parametrize(
    "line",
    ["train dump RUN --data D --causel 5", "train dmp RUN", "analyze fig1 RUNS --out F --variant no", "train gap RUN"],
)
def test_a_line_that_is_wrong_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"causel|dmp|'no'|data"):
        parsed(line.split())


def test_the_front_page_is_short_and_says_first_what_has_not_run() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    assert any("Nothing has run on a GPU yet" in line for line in lines[:20])
    assert max(map(len, lines)) <= 140


@pytest.mark.slow
def test_the_notebook_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code on the small demo, and what is kept of the real one: outputs, and no errors."""
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert NOTEBOOK.stat().st_size < 200_000
    monkeypatch.chdir(place / "docs")
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] and cell["execution_count"], "executed as a whole, a result a cell"
            assert all(output["output_type"] != "error" for output in cell["outputs"])
            source = "".join(line for line in cell["source"] if not line.startswith("%"))
            exec(compile(source, NOTEBOOK.name, "exec"), names)
