"""Imports follow the data: pipeline -> training -> analysis, through the contracts alone."""

import ast
import subprocess
import sys
from itertools import takewhile

import pytest
from running import ROOT

# What all stages share: files whole or not at all, errors and the end of a command, the terminal, colours.
SHARED = {"pipeline.files", "pipeline.errors", "pipeline.terminal", "pipeline.colours"}
PACKAGES = ("pipeline", "training", "analysis", "data_manifests")
ALLOWED = {
    "pipeline": {"pipeline", "data_manifests"},
    "training": {"training", "data_manifests", "pipeline.shards", "pipeline.teachers"} | SHARED,
    "analysis": {"analysis", "data_manifests", "training.dumps", "training.intervals", "training.records"} | SHARED,
    "data_manifests": {"data_manifests"},
}
TORCH_FREE = (
    *sorted(SHARED), "pipeline.shards", "pipeline.teachers", "pipeline.job", "pipeline.inspect", "pipeline.verify",
    "pipeline.dry_run", "pipeline.sources.imagenet", "pipeline.sources.nyu", "pipeline.cli", "training.records",
    "training.dumps.from_raw", "training.dumps.store", "training.cli", "training.commands.status", "analysis",
    "analysis.report", "analysis.cli",
    "training.intervals",
)  # fmt: skip


def imported_names(path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_data(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported_names(path):
            if name.split(".")[0] in PACKAGES:
                allowed = any(name == a or name.startswith(a + ".") for a in ALLOWED[package])
                assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_figures_are_nobodys_but_the_callers():
    """pyplot keeps every figure and has one backend for all: both are the user's, not a library's."""
    for path in (p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        used = {name for name in imported_names(path) if name.startswith("matplotlib.pyplot")}
        assert not used and "matplotlib.use(" not in path.read_text("utf-8"), f"{path.relative_to(ROOT)}"


def test_only_teachers_know_what_estimates_depth():
    """The job asks what the protocol has, so that a teacher of another kind is one file."""
    heavy = {"torch", "transformers", "huggingface_hub", "safetensors", "depth_estimation"}
    for path in (ROOT / "pipeline").rglob("*.py"):
        if path.parent.name != "teachers":
            for name in imported_names(path):
                known = name.split(".")[0] in heavy or name.startswith(
                    tuple(f"pipeline.teachers.{file}" for file in ("hub", "moge", "packaged", "view", "weights"))
                )
                assert not known, f"{path.relative_to(ROOT)} imports {name}"


# Who must not know whom inside training: what the house is built on knows nothing of what stands on it.
FORBIDDEN = {
    "training/engine": ("training.tasks", "training.commands", "training.study", "training.runs", "training.dumping"),
    "training/models": ("training.engine", "training.tasks", "training.commands", "training.loading", "training.runs"),
    "training/loading": ("training.tasks", "training.commands", "training.models", "training.runs"),
    "training/records": ("training.engine", "training.models", "training.tasks", "training.config"),
    "training/dumps": ("training.engine", "training.models", "training.tasks", "training.config"),
    "training/tasks": ("training.commands", "training.study", "training.runs", "training.dumping"),
}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_what_the_rest_stands_on_knows_nothing_of_it(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for name in imported_names(path):
            banned = [room for room in FORBIDDEN[folder] if name == room or name.startswith(room + ".")]
            assert not banned, f"{path.relative_to(ROOT)} imports {name}"


def test_no_two_rooms_of_training_lean_on_each_other():
    """A room is a folder, or a file of its own; what it knows lies below it."""

    def room(module):
        parts = module.split(".")
        return ".".join(parts[:3] if parts[1:2] == ["tasks"] else parts[:2])

    rooms = {}
    for module, imported in import_graph("training").items():
        rooms.setdefault(room(module), set()).update(room(each) for each in imported)
    while free := {name for name, below in rooms.items() if not below - {name}}:
        rooms = {name: below - free for name, below in rooms.items() if name not in free}
    assert not rooms, f"arrows run both ways between some of {sorted(rooms)}"


def test_no_task_knows_another():
    folders = [path for path in (ROOT / "training/tasks").iterdir() if (path / "__init__.py").exists()]
    assert len(folders) >= 3
    for own in folders:
        for path in own.rglob("*.py"):
            for name in imported_names(path):
                other = name.removeprefix("training.tasks.").split(".")[0]
                assert not name.startswith("training.tasks.") or other == own.name, f"{path.name} imports {name}"


def test_the_engine_asks_no_task_or_backbone_what_it_is():
    words = ("FineTuning", "PreTraining", "VisionTransformer", "Segmenter", "classification", "segmentation")
    for path in (ROOT / "training/engine").rglob("*.py"):
        for word in words:
            assert word not in path.read_text("utf-8"), f"{path.name} names {word}"


def import_graph(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports, at the top, in functions or for its types alone."""
    files = {path: path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / package).rglob("*.py")}
    modules = {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in files.items()}
    graph = {}
    for module, path in modules.items():
        names = imported_names(path)
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in names} & set(modules)
    return graph


@pytest.mark.parametrize("package", ["training", "analysis", "data_manifests"])
def test_no_imports_go_in_a_circle(package):
    """Modules are taken away from below, as long as one imports nothing that is left."""
    left = import_graph(package)
    assert left
    while free := {module for module, imported in left.items() if not imported - {module}}:
        left = {module: imported - free for module, imported in left.items() if module not in free}
    assert not left, f"a circle goes through some of {sorted(left)}"


@pytest.mark.parametrize("package", ["analysis"])
def test_late_imports_stand_where_a_function_begins(package):
    """They are there for the time that `--help` takes; one further down hides what depends on what."""
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        placed = [*tree.body, *(line for block in tree.body if isinstance(block, ast.If) for line in block.body)]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                placed += takewhile(is_import, node.body[ast.get_docstring(node) is not None :])
        stray = [node.lineno for node in ast.walk(tree) if is_import(node) and node not in placed]
        assert not stray, f"{path.relative_to(ROOT)} imports in mid-function, lines {stray}"


@pytest.mark.parametrize("package", ["analysis"])
def test_nothing_is_asked_for_an_attribute_by_a_word(package):
    """A name in quotes is one that no search for its uses, and no type checker, knows."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            asked = isinstance(node, ast.Name) and node.id in ("getattr", "hasattr", "setattr")
            assert not asked, f"{path.relative_to(ROOT)}:{node.lineno} has {node.id}"


def is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_imports_without_torch(module):
    code = f"import sys; sys.modules['torch'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_top_level_holds_what_the_design_names():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False).stdout
    if not tracked:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in tracked.splitlines()}
    assert top <= {
        "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "LICENSE",
        "CITATION.cff", "constraints.txt", "pseudodepth.py", "pipeline", "training", "analysis", "tests",
        "data_manifests", "docs", "findings", ".ci", ".gitignore", ".pre-commit-config.yaml",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["precompute-depth", "train", "analyze"])
def test_help_teaches_and_is_quick(name):
    import time

    from running import command

    start = time.perf_counter()
    done = command(name, "--help")
    seconds = time.perf_counter() - start
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert seconds < 3.0, f"--help took {seconds:.1f} s: a heavy import at the top of the command line?"
