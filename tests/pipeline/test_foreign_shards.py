"""An index and a shard's JSON from somebody else: one hostile value in every field of their schemas, of every kind."""

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import pytest
from fuzzing import hostile_values
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from pipeline import shards
from pipeline.errors import UserError
from pipeline.inspect import sheet
from pipeline.verify import check_shards


@pytest.mark.parametrize(
    ("name", "schema"), [("index.json", shards.ShardIndex), ("shard-000000.json", shards.ShardRecord)]
)
def test_every_field_is_bounded_or_does_no_harm(rooms, tmp_path, name, schema):
    """Reading, verifying and drawing end in a value or in one line, and touch nothing. `make soak` tries them all."""
    data = tmp_path / "data"
    shutil.copytree(rooms / "val", data / "val")
    path = data / "val" / name
    instance = json.loads(path.read_text())
    every = 1 if os.environ.get("PSEUDODEPTH_SOAK") else 13
    outcomes = {"read": 0, "refused": 0}
    for what, changed in islice(hostile_values(schema, instance), 0, None, every):
        path.write_text(json.dumps(changed))
        before = sorted(map(str, tmp_path.rglob("*")))
        refusal = drawn(data)
        outcomes["refused" if refusal else "read"] += 1
        assert "\n" not in refusal, what
        for problem in verified(data):
            assert "\n" not in problem, what
        assert sorted(map(str, tmp_path.rglob("*"))) == before, what
    assert outcomes["refused"] > outcomes["read"]


def test_a_depth_field_may_have_any_name_but_another_members():
    names = TypeAdapter(shards.DepthName)
    for name in ("pseudo", "da3-base", "raw_2", "3d"):
        assert names.validate_python(name) == name
    for name in ("", "RGB", "rgb", "cls", "seg", "json", "key", "a.b", "a/b", "-a", "a" * 33):
        with pytest.raises(ValidationError):
            names.validate_python(name)


def drawn(data: Path) -> str:
    """What a contact sheet of the split ends with: nothing, or a line."""
    try:
        split = shards.open_split(data, "val")
        split.read(0)
        sheet(split, 1)
    except UserError as error:
        return str(error)
    return ""


def verified(data: Path) -> list[str]:
    try:
        return check_shards(str(data), Console(quiet=True)).problems
    except UserError as error:
        return [str(error)]
