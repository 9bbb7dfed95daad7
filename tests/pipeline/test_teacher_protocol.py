"""The job asks nothing of a teacher but what the protocol says; a name opens one."""

import shutil

import numpy as np
import pytest
from rich.console import Console
from running import command, contents

from pipeline import job, shards
from pipeline.sources.folder import Folder
from pipeline.teachers import Teacher, TeacherError, UnfitImage, open_teacher


class Darkness:
    """A teacher of another kind, without torch: what is dark is far. Company in a batch does not change it."""

    name, polarity, unit = "darkness", "farther_is_larger", "m"

    def __init__(self) -> None:
        self.company: list[int] = []

    def identity(self):
        return {"name": self.name, "polarity": self.polarity, "unit": self.unit, "weights_sha256": "none"}

    def prepare(self, rgb):
        if rgb.shape[0] < 20:
            raise UnfitImage("too thin for darkness")
        return 1 + (255 - rgb.mean(2, dtype=np.float32)) / 64

    def estimate(self, pixels, sizes):
        self.company.append(len(pixels))
        return [depth_m for depth_m, size in zip(pixels, sizes, strict=True) if depth_m.shape == size]


def labelled_by(teacher: Teacher, photos, out, batch_size: int) -> dict[str, bytes]:
    options = job.Options(samples_per_shard=4, batch_size=batch_size, max_rejects=0.5)
    job.run(Folder(photos, 96, 0.25), teacher, out, options, console=Console(quiet=True))
    assert command("precompute-depth", "verify", out).returncode == 0
    return contents(out)


def test_a_teacher_of_another_kind_goes_through_the_job(photos, tmp_path):
    (photos / "china" / "thin.png").write_bytes(shards.png_bytes(np.zeros((9, 60, 3), np.uint8)))
    found = {}
    for batch_size in (1, 3):
        teacher = Darkness()
        made = labelled_by(teacher, photos, tmp_path / f"batches-of-{batch_size}", batch_size)
        found[batch_size] = {name: data for name, data in made.items() if "shard-" in name}
        assert max(teacher.company) == batch_size
    assert found[1] == found[3]
    assert sum(name.endswith(".tar") for name in found[1]) >= 4
    splits = [shards.open_split(tmp_path / "batches-of-3", name) for name in shards.SPLITS]
    assert {split.index.depth["pseudo"].unit for split in splits} == {"m"}
    assert [reject.reason for split in splits for reject in split.index.rejects] == ["too thin for darkness"]
    sample = splits[0][0]
    darker = (255 - sample["rgb"].mean(2)).ravel()
    assert np.corrcoef(darker, sample["pseudo"].ravel())[0, 1] > 0.99


def test_a_run_gives_its_finished_teacher(random_teacher, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(TeacherError, match=r"run without a finished teacher .* let the run end") as refusal:
        open_teacher(str(run), "cpu")
    assert "\n" not in str(refusal.value)
    shutil.copytree(random_teacher, run / "teacher")
    of_run, plain = open_teacher(str(run), "cpu").identity(), open_teacher(str(random_teacher), "cpu").identity()
    assert of_run == plain | {"name": str(run / "teacher")}
