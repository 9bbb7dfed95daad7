"""An exported model is the model, bit for bit, whole or not there."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.files import WriteError
from training import export
from training.models.registry import MONIKERS
from training.models.vit import ModelError
from training.tasks.classification.config import resolve

TINY = ("model.image_size=32", "model.width=24", "model.depth=2", "model.heads=3")


def tiny(moniker: str):
    return resolve("tiny", moniker, TINY, 5).model


def redraw(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("moniker", MONIKERS)
def test_an_export_is_the_model_bit_for_bit(moniker, tmp_path):
    model = tiny(moniker).build()
    for seed in (0, 1):  # the second replaces the first
        redraw(model, seed)
        export.export(model, model.config, tmp_path / "out", {"run": "r", "classes": ["a", "b"]})
    again = export.from_pretrained(tmp_path / "out")
    assert again.config == model.config
    assert not again.training
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys() == load_file(tmp_path / "out/model.safetensors").keys()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    values = json.loads((tmp_path / "out/config.json").read_text())
    assert values["model"] == model.config.model_dump(mode="json")
    assert values["classes"] == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    model = tiny("m3ch").build()
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match="exists and is no exported model: choose another folder"):
        export.export(model, model.config, tmp_path / "other", {})

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(export, "save_file", fail)
    with pytest.raises(WriteError, match=r"cannot write .*disk full.*choose another"):
        export.export(model, model.config, tmp_path / "out", {})
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "must be a folder that `train export` wrote"),
        ({"schema_version": 9}, "has schema version 9, this version reads 1: upgrade"),
        ({"model": {"name": "m5ch"}}, "describes no model of ours: model"),
        ({"model": {"name": "m3ch", "wdth": 3}}, "describes no model of ours: model.wdth"),
        ({"model": {"name": "m3ch", "width": 25, "heads": 3}}, "describes no model of ours"),
        (None, "model.safetensors is damaged"),
    ],
)
def test_damaged_exports_give_one_line(change, complaint, tmp_path):
    model = tiny("m3ch").build()
    export.export(model, model.config, tmp_path / "out", {})
    config = tmp_path / "out/config.json"
    if change is None:
        (tmp_path / "out/model.safetensors").write_bytes(b"x" * 20)
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelError, match=complaint) as caught:
        export.from_pretrained(tmp_path / "out")
    assert "\n" not in str(caught.value)
