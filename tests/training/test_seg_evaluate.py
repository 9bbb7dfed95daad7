"""Evaluation of fine-tuning: every pixel once, against scikit-learn and literal loops; scenes set aside; the sheet."""

import json
import math
import resource
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segments import config_of, members
from sklearn.metrics import jaccard_score
from torch import nn

from pipeline import shards
from training.engine.found import At
from training.engine.log import write_json
from training.engine.machine import Machine
from training.engine.ranks import Ranks
from training.engine.share import DataError, Share
from training.loading.augment.normalise import RGB_MEAN, RGB_STD
from training.loading.order import Order
from training.models.segmenter import Segmenter
from training.records import SegmentationEvaluation, read_evaluation
from training.tasks.segmentation import scores
from training.tasks.segmentation.data import Part, carved, open_labelled, train_loader, whole
from training.tasks.segmentation.evaluate import as_evaluation, evaluate, resized_depth, segmented
from training.tasks.segmentation.sheet import Sheet

CPU = torch.device("cpu")


class Held:
    """A split in memory; images of several sizes, a fifth of the pixels void, one image void altogether."""

    def __init__(self, count=11, classes=5, sizes=((40, 56), (32, 64))):
        rng = np.random.default_rng(0)
        self.samples, self.labels = [], []
        for number in range(count):
            height, width = sizes[(number // 3) % len(sizes)]
            label = rng.integers(0, classes, (height, width)).astype(np.uint8)
            label[rng.random(label.shape) < (1.0 if number == 4 else 0.2)] = shards.VOID
            z = rng.normal(size=(height, width))
            z[rng.random(z.shape) < 0.3] = np.nan
            rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            self.samples.append(members(rgb, z, label, f"s{number}"))
            self.labels.append(label)
        self.ends, self.store = np.array([count]), "held"

    def __len__(self):
        return len(self.samples)

    def members(self, position, fields):
        return self.samples[position]

    def reopened(self):
        return self


def model_of(config) -> Segmenter:
    torch.manual_seed(0)
    model = Segmenter(config.model, config.head, config.augment.crop)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def config(*settings, head="linear"):
    return config_of("m4ch", "augment.crop=[32,64]", *settings, head=head)


def measured(model, part, settings=(), ranks=Ranks(), between=lambda: None, **more):
    return evaluate(model, part, config(*settings), "real", Machine(CPU, nullcontext, ranks, between), **more)


# --- counts --------------------------------------------------------------------------------------------------------


def test_one_confusion_over_all_images_is_that_of_scikit_learn():
    from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

    held, seen = Held(), {}
    model = model_of(config())
    found = measured(model, whole(held), look=lambda batch, predicted: seen.update(
        zip(range(batch.first, batch.first + len(batch.keys)), predicted, strict=True)))  # fmt: skip
    assert sorted(seen) == list(range(11))
    labels = np.concatenate([label.ravel() for label in held.labels])
    guesses = np.concatenate([seen[number].numpy().ravel() for number in range(11)])
    valid = labels != shards.VOID
    counts = found.single
    np.testing.assert_array_equal(
        counts.confusion, confusion_matrix(labels[valid], guesses[valid], labels=list(range(5)))
    )
    assert counts.confusion.sum() == valid.sum()
    iou = jaccard_score(labels[valid], guesses[valid], labels=list(range(5)), average=None)
    np.testing.assert_allclose(scores.class_iou(counts.per_image.sum(0)), iou)
    assert counts.miou == pytest.approx(iou.mean())
    assert counts.pixel_accuracy == pytest.approx(accuracy_score(labels[valid], guesses[valid]))
    for number, label in enumerate(held.labels):
        of_image = confusion_matrix(label[label < 255], seen[number].numpy()[label < 255], labels=list(range(5))) if (
            label < 255).any() else np.zeros((5, 5), int)  # fmt: skip
        hits = np.diag(of_image)
        expected = np.stack([hits, of_image.sum(0) - hits, of_image.sum(1) - hits], 1)
        np.testing.assert_array_equal(counts.per_image[number], expected)
    assert counts.per_image[4].sum() == 0, "a void image counts nothing"


def test_iou_is_true_positives_over_the_union_and_absent_classes_are_left_out():
    #          prediction  0  1  2  3
    image = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    counts = scores.counts_of(image)
    assert counts.tolist() == [[6, 5, 2], [3, 2, 1], [0, 0, 4], [0, 0, 0]]
    np.testing.assert_allclose(scores.class_iou(counts), [6 / 13, 3 / 6, 0, np.nan])
    assert scores.mean_iou(counts) == pytest.approx((6 / 13 + 1 / 2) / 3)
    assert math.isnan(scores.mean_iou(np.zeros((4, 3), int)))


def test_the_loss_is_that_of_labelled_pixels():
    held = Held(3)
    model, total, labelled = model_of(config()), 0.0, 0
    for sample, label in zip(held.samples, held.labels, strict=True):
        logits = literal_logits(model, *planes(sample))
        target = torch.from_numpy(label.astype(np.int64))[None]
        total += F.cross_entropy(logits, target, ignore_index=255, reduction="sum").item()
        labelled += int((label != 255).sum())
    assert measured(model, whole(held)).loss == pytest.approx(total / labelled, rel=1e-5)


def test_a_split_without_any_label_is_refused_in_one_line():
    held = Held(1)
    held.samples = [members(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32)), np.full((32, 32), 255, np.uint8))]
    with pytest.raises(DataError, match="held has no labelled pixel"):
        measured(model_of(config()), whole(held))


# --- scales --------------------------------------------------------------------------------------------------------


def planes(sample):
    rgb = torch.from_numpy(sample.decode("rgb").copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (RGB_MEAN, RGB_STD))
    return (rgb - mean) / std, torch.from_numpy(sample.decode("real"))[None, None]


@torch.no_grad()
def literal_logits(model, rgb, depth, scale=1.0):
    own = rgb.shape[2:]
    size = tuple(model.multiple * math.ceil(side * scale / model.multiple) for side in own)
    if size != tuple(own):
        antialias = size[0] < own[0] or size[1] < own[1]
        rgb, z, share = (
            F.interpolate(plane, size, mode="bilinear", antialias=antialias)
            for plane in (rgb, depth.nan_to_num(0), depth.isfinite().float())
        )
        depth = torch.where(share >= 0.5, z / share, torch.nan)
    return F.interpolate(model(rgb, depth), own, mode="bilinear")


@pytest.mark.parametrize("head", ["linear", "ham"])
def test_multi_scale_is_a_literal_loop_over_scales_and_mirror_images(head):
    held, seen, scales = Held(4), {}, (0.5, 1.0, 1.5)
    model = model_of(config(head=head))
    found = measured(model, whole(held), scales=scales, look=lambda batch, predicted: seen.update(
        zip(batch.keys, predicted, strict=True)))  # fmt: skip
    model.eval()
    single_total, multi_total = np.zeros((5, 5), int), np.zeros((5, 5), int)
    for number, sample in enumerate(held.samples):
        rgb, depth = planes(sample)
        total = torch.zeros(1, 5, *rgb.shape[2:])
        for scale in scales:
            total += literal_logits(model, rgb, depth, scale).softmax(1)
            total += literal_logits(model, rgb.flip(3), depth.flip(3), scale).softmax(1).flip(3)
        assert (total.argmax(1)[0] == seen[sample.key]).float().mean() > 0.999
        label = torch.from_numpy(held.labels[number])
        single = literal_logits(model, rgb, depth, 1.0).argmax(1)[0]
        single_total += scores.confusion(single, label, 5)
        multi_total += scores.confusion(total.argmax(1)[0], label, 5)
    assert np.abs(found.single.confusion - single_total).sum() <= 8
    assert np.abs(found.multi.confusion - multi_total).sum() <= 8
    assert np.abs(found.single.confusion - found.multi.confusion).sum() > 20, "they differ"


class Sizes(nn.Module):
    """Remembers which sizes it was shown."""

    multiple = 32

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, rgb, depth):
        assert rgb.shape[2:] == depth.shape[2:]
        self.shown.append(tuple(rgb.shape[2:]))
        return rgb[:, :2]


@pytest.mark.parametrize(
    ("own", "scale", "seen"),
    [((480, 640), 1.0, (480, 640)), ((480, 640), 0.75, (384, 480)), ((425, 560), 1.0, (448, 576)),
     ((480, 640), 1.25, (608, 800)), ((40, 40), 0.5, (32, 32))],
)  # fmt: skip
def test_sizes_are_rounded_up_to_whole_multiples(own, scale, seen):
    model = Sizes()
    logits = segmented(model, torch.zeros(1, 3, *own), torch.zeros(1, 1, *own), scale)
    assert model.shown == [seen] and tuple(logits.shape[2:]) == own


def test_depth_is_resized_over_valid_pixels_alone():
    depth = torch.full((1, 1, 4, 8), 3.0)
    depth[..., 4:] = torch.nan
    small = resized_depth(depth, (2, 4))
    assert torch.equal(small[0, 0, :, 0], torch.full((2,), 3.0)) and small[..., 3].isnan().all()
    assert torch.equal(small[small.isfinite()], torch.full_like(small[small.isfinite()], 3.0))


# --- shared, and in bounded memory ---------------------------------------------------------------------------------


def test_ranks_workers_and_batches_count_the_same():
    held, model = Held(21), model_of(config())
    alone = measured(model, whole(held))
    with_workers = measured(model, whole(held), ("runtime.workers=2",))
    np.testing.assert_array_equal(alone.single.per_image, with_workers.single.per_image)
    told = []
    for rank in (0, 1, 2):
        gathered = []

        class Apart(Ranks):
            def gather(self, value, into=gathered):
                into.append(value)
                raise StopIteration

        between = []
        with pytest.raises(StopIteration):
            measured(model, whole(held), ranks=Apart(rank, rank, 3), between=lambda to=between: to.append(1))
        told.append((gathered[0], len(between)))
    assert len({count for _, count in told}) == 1, "as often on every rank"
    images = [number for (counts, *_), _ in told for number in counts]
    assert sorted(images) == list(range(21)), "every image once"
    total = sum(part[1][0] for part, _ in told)
    np.testing.assert_array_equal(total, alone.single.confusion)
    loss = sum(part[2] for part, _ in told) / sum(part[3] for part, _ in told)
    assert loss == pytest.approx(alone.loss, rel=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_memory_does_not_grow_with_images():
    """Logits of 160 more images of 160 x 192 pixels would be 98 MB."""
    model = model_of(config())
    held = Held(8, sizes=((160, 192),))

    def repeated(times):
        part = whole(held)
        part.positions = np.tile(part.positions, times)
        measured(model, part)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    repeated(1)
    few, many = repeated(5), repeated(20)
    assert many - few < 20


# --- scenes set aside ----------------------------------------------------------------------------------------------


class Scenes:
    """Keys and scenes of a split: scene s has 2 + s % 3 samples."""

    def __init__(self, scenes=60, named=True):
        self.scene_of = [f"scene-{s}" for s in range(scenes) for _ in range(2 + s % 3)]
        self.named, self.store, self.ends = named, "scenes", np.array([40, len(self.scene_of)])

    def __len__(self):
        return len(self.scene_of)

    def members(self, position, fields):
        facts = {"scene": self.scene_of[position]} if self.named else {}
        return shards.Members(f"k{position}", "tar", {"json": ("json", json.dumps(facts).encode())})


@pytest.mark.parametrize("named", [True, False])
def test_whole_scenes_are_set_aside_about_the_share_of_them(named):
    split = Scenes(named=named)
    train, aside = carved(split, 0.1, 0)
    positions = sorted([*train.positions.tolist(), *aside.positions.tolist()])
    assert positions == list(range(len(split))), "disjoint, and nothing is lost"
    assert 18 <= len(aside) <= 21  # of 180
    if named:
        inside, outside = ({split.scene_of[k] for k in part.positions} for part in (aside, train))
        assert not inside & outside
    again = carved(split, 0.1, 0)[1].positions
    assert np.array_equal(again, aside.positions)
    assert not np.array_equal(carved(split, 0.1, 1)[1].positions, aside.positions), "the seed chooses"
    assert set(aside.positions) <= set(carved(split, 0.3, 0)[1].positions), "a larger share has the smaller one's"


def test_what_cannot_be_carved():
    with pytest.raises(DataError, match="one scene, none to choose a checkpoint by: use --select best-on-test"):
        carved(Scenes(1), 0.1, 0)
    train, aside = carved(Scenes(2), 0.99, 0)
    assert len(train) and len(aside), "something is left to train on"


def test_a_part_goes_through_its_own_samples_once_an_epoch():
    split = Scenes()
    train, _ = carved(split, 0.3, 0)
    assert train.ends.tolist() == [int((train.positions < 40).sum()), len(train)]
    order = Order(train.ends, 0)
    assert sorted(order(np.arange(len(train)), 0).tolist()) == list(range(len(train)))
    assert train.members(3, ()).key == f"k{train.positions[3]}"


def test_the_training_stream_holds_what_was_not_set_aside(rooms):
    split = open_labelled(rooms, "train", "raw")
    train, aside = carved(split, 0.1, 0)
    set_aside = {aside.key(position) for position in range(len(aside))}
    chosen = config_of("m4ch", "augment.crop=[32,32]", f"optim.batch_size={len(train)}", num_classes=9, depth="raw")
    loader = train_loader(train, chosen, Share.of(chosen), 0, 2)
    first, second = next(loader).keys, next(loader).keys
    assert sorted(first) == sorted(second) == sorted(train.key(k) for k in range(len(train)))
    assert not set(first) & set_aside and first != second
    assert isinstance(train, Part)


# --- records and the sheet -----------------------------------------------------------------------------------------


def evaluation_of(rooms, scales=()) -> SegmentationEvaluation:
    split = open_labelled(rooms, "val", "raw")
    chosen = config_of("m4ch", "augment.crop=[48,48]", num_classes=9, depth="raw", head="linear")
    found = evaluate(model_of(chosen), whole(split), chosen, "raw", Machine(CPU, nullcontext), scales=scales)
    saved = At("best", 3, "abc")
    return as_evaluation(found, chosen, split, "raw", saved, scales)


def test_an_evaluation_survives_its_record(rooms, tmp_path):
    result = evaluation_of(rooms, (1.0,))
    write_json(tmp_path, "evaluations/val-raw-best.json", result)
    again = read_evaluation(tmp_path / "evaluations" / "val-raw-best.json")
    assert again == result
    assert again.num_samples == len(again.keys) == len(again.single.per_image) == 70
    assert again.classes[0] == "room" and len(again.single.confusion) == len(again.single.class_iou) == 9
    assert (again.selection, again.checkpoint, again.epoch, again.scales) == ("best-on-val", "best", 3, [1.0])
    assert (again.checkpoint_sha256, again.inputs) == ("abc", "z")
    totals = np.zeros((9, 3), int)
    for image in again.single.per_image:
        for label, counts in image.items():
            totals[label] += counts
    assert scores.mean_iou(totals) == pytest.approx(again.single.miou), "images are enough for the whole"
    confusion = np.array(again.single.confusion)
    np.testing.assert_array_equal(totals, scores.counts_of(confusion))
    label = np.repeat(np.arange(9), confusion.sum(1))
    answer = np.full_like(label, np.bincount(label).argmax())
    literal = jaccard_score(label, answer, average="macro", labels=np.unique(label))
    assert again.commonest_miou == pytest.approx(literal)


def test_the_sheet_shows_evenly_spaced_images_and_its_classes(rooms, tmp_path):
    from PIL import Image

    split = open_labelled(rooms, "val", "raw")
    chosen = config_of("m4ch", "augment.crop=[48,48]", num_classes=9, depth="raw", head="linear")
    sheet = Sheet(split.index.seg_names, len(split))
    evaluate(model_of(chosen), whole(split), chosen, "raw", Machine(CPU, nullcontext), look=sheet.look)
    assert [row[0] for row in sheet.rows.values()] == [split.key(k) for k in (0, 14, 28, 41, 55, 69)]
    sheet.write(tmp_path / "sheet.png", "a title")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size[0] > 800 and len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100
