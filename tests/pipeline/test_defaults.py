"""Defaults that the command line repeats, so that --help need not import what owns them."""

import inspect
from typing import get_args

import data_manifests
from pipeline import cli, shards
from pipeline.commands import imagenet, options
from pipeline.job import Options
from pipeline.scenes import SceneConfig
from pipeline.sources.imagenet import LAYOUTS
from pipeline.teachers.device import DTYPES


def defaults(command) -> dict[str, object]:
    return {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}


def test_the_default_teacher_is_the_manifests():
    assert data_manifests.load("teachers")["default"] == defaults(cli.folder)["teacher"]


def test_choices_are_those_of_their_owners():
    annotations = inspect.signature(options.LabellingOptions).parameters
    assert {*get_args(get_args(annotations["dtype"].annotation)[0])} == {"auto", *DTYPES}
    assert get_args(options.SplitChoice) == shards.SPLITS
    assert get_args(imagenet.LayoutChoice) == ("auto", *LAYOUTS)


def test_rooms_and_jobs_have_one_set_of_defaults():
    rooms = defaults(cli.toyrooms)
    assert (rooms["size"], rooms["camouflage"]) == (SceneConfig().size_px, SceneConfig().camouflage)
    for name in ("samples_per_shard", "batch_size", "stats", "max_rejects", "seed"):
        assert defaults(cli.folder)[name] == getattr(Options(), name)
