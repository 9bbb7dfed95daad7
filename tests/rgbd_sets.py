"""Small RGB-D sets in the layouts that their authors publish, written from those facts alone.

Each function fills a folder and says what a right reader finds in it: depth in metres by hand, for pixels of a sample
that is named by a part of its source.
"""

import io
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

NAN = float("nan")


@dataclass
class Expected:
    """What is in a set: samples by split, metres by (source, field, row, column), labels likewise, what is left out."""

    train: int
    val: int
    pixels: dict[tuple[str, str, int, int], float]  # NaN: no measurement
    labels: dict[tuple[str, int, int], int] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)  # source -> the name of its class
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> how many
    rejects: dict[str, str] = field(default_factory=dict)  # source -> words of its reason


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def encoded(values: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def photo(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A picture that differs from others and shows what is up and left."""
    rows, columns = np.mgrid[:height, :width]
    red = np.where((rows // 4 + columns // 4) % 2, 200, 60)
    return np.stack([red, rows * 255 // height, (columns * 255 // width + 40 * number) % 256], -1).astype(np.uint8)


def ramp(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Whole numbers that grow from row to row and column to column, all distinct, none above 8,000."""
    return (1000 + 200 * number + np.arange(height)[:, None] * 64 + np.arange(width)[None, :]).astype(np.uint16)


def labels(number: int, classes: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Blocks of every class, 1 to `classes`, and a block of 0."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows // 4 * 8 + columns // 4 + number) % (classes + 1)).astype(np.uint8)


# --- SUN RGB-D -----------------------------------------------------------------------------------------------------


def turned(millimetres: np.ndarray) -> np.ndarray:
    """How SUN RGB-D's PNGs hold them: three bits further left, those that fall out come in at the right."""
    wide = millimetres.astype(np.uint32)
    return ((wide << 3 | wide >> 13) & 0xFFFF).astype(np.uint16)


def sunrgbd(root: Path) -> Expected:
    """Four sensors' folders; one image in neither split; kv2's depth has other file names than its photograph."""
    sequences = [
        "kv1/NYUdata/NYU0001", "kv1/b3dodata/img_0063", "kv2/kinect2data/000065_2014-05-16", "xtion/sun3ddata/mit_32/a",
        "realsense/lg/2014_10_21-18_15", "kv2/align_kv2/2014-12-18", "xtion/xtion_align_data/2014_12_05",
    ]  # fmt: skip
    kinds = ["bedroom", "office", "corridor", "office", "idk", "bedroom", "corridor"]
    meta, segs = [], []
    for number, (sequence, kind) in enumerate(zip(sequences, kinds, strict=True)):
        folder = root / "SUNRGBD" / sequence
        name = f"{number:07d}"
        millimetres = ramp(number)
        millimetres[0, 0], millimetres[0, 1], millimetres[1, 1] = 0, 8191, 65535
        put(folder / "image" / f"{name}.jpg", encoded(photo(number), "JPEG"))
        put(folder / "depth_bfx" / f"{name}.png", encoded(turned(np.where(millimetres == 0, 1500, millimetres))))
        put(folder / "depth" / (f"{name}_raw.png" if number == 2 else f"{name}.png"), encoded(turned(millimetres)))
        put(folder / "scene.txt", f"{kind}\n".encode())
        path = f"/n/fs/sun3d/data//SUNRGBD/{sequence}"
        meta.append(
            {
                "sequenceName": f"SUNRGBD/{sequence}", "rgbpath": f"{path}/image/{name}.jpg", "rgbname": f"{name}.jpg",
                "depthpath": f"{path}/depth_bfx/{name}.png", "depthname": f"{name}.png", "K": np.eye(3),
            }
        )  # fmt: skip
        segs.append(labels(number, 37))
    toolbox = root / "SUNRGBDtoolbox"
    put(toolbox / "Metadata" / "readme.txt", b"as published")
    (toolbox / "traintestSUNRGBD").mkdir(parents=True)
    dtype = [(key, object) for key in meta[0]]
    array = np.array([tuple(entry.values()) for entry in meta], dtype)[None]
    scipy.io.savemat(toolbox / "Metadata" / "SUNRGBDMeta.mat", {"SUNRGBDMeta": array})
    full = [f"/n/fs/sun3d/data/SUNRGBD/{sequence}" for sequence in sequences]
    cells = {name: np.array(paths, object)[None] for name, paths in (("alltrain", full[:4]), ("alltest", full[4:6]))}
    scipy.io.savemat(toolbox / "traintestSUNRGBD" / "allsplit.mat", cells)
    with h5py.File(toolbox / "Metadata" / "SUNRGBD2Dseg.mat", "w") as file:  # MATLAB 7.3: axes are reversed
        held = file.create_group("#refs#")
        references = [held.create_dataset(str(k), data=seg.astype(np.uint16).T).ref for k, seg in enumerate(segs)]
        struct_array = np.array(references, h5py.ref_dtype)[:, None]
        file.create_group("SUNRGBD2Dseg").create_dataset("seglabel", data=struct_array, dtype=h5py.ref_dtype)
    return Expected(
        train=4, val=2, left_out={"in neither split": 1},
        pixels={
            ("NYU0001", "raw", 0, 0): NAN, ("NYU0001", "real", 0, 0): 1.5,
            ("NYU0001", "raw", 0, 1): 8.0,  # 8.191 m, cut at 8
            ("NYU0001", "raw", 1, 1): 8.0,  # 65.535 m
            ("NYU0001", "real", 2, 3): 1.131,  # 1000 + 2 * 64 + 3
            ("000065", "raw", 5, 7): 1.727,  # 1000 + 2 * 200 + 5 * 64 + 7, found under another name
        },
        labels={("NYU0001", 0, 0): 255, ("NYU0001", 0, 4): 0, ("NYU0001", 16, 20): 36},
    )  # fmt: skip


def sunrgbd_scenes(root: Path) -> Expected:
    """The same folders; one kind of scene is none of the 19."""
    expected = sunrgbd(root)
    return replace(
        expected, val=1, labels={}, classes={"NYU0001": "bedroom", "img_0063": "office", "000065": "corridor"},
        pixels={where: metres for where, metres in expected.pixels.items() if where[1] == "real"},
        left_out={"in neither split": 1, "its class is none of the description's": 1},
    )  # fmt: skip


# --- DFormer -------------------------------------------------------------------------------------------------------


def dformer(root: Path, classes: int = 40) -> Expected:
    """A line without a file, a depth map that is missing, one of 16 bits beside those of 8, a label above the list."""
    for number in range(8):
        put(root / "RGB" / f"{number}.jpg", encoded(photo(number), "JPEG"))
        eight = (255 * (ramp(number) - 1000.0) / 3000).astype(np.uint8)
        if number != 5:
            put(root / "Depth" / f"{number}.png", encoded(ramp(number) if number == 6 else eight))
        label = labels(number, classes)
        if number == 7:
            label[3, 3] = classes + 1
        put(root / "Label" / f"{number}.png", encoded(label))
    put(root / "train.txt", b"".join(b"RGB/%d.jpg Label/%d.png\n" % (k, k) for k in (0, 1, 2, 5, 6, 7, 99)))
    put(root / "test.txt", b"RGB/3.jpg Label/3.png\r\nRGB/4.jpg Label/4.png\r\n")
    last = {37: (16, 20), 40: (20, 0)}[classes]
    return Expected(
        train=3, val=2,
        pixels={("RGB/0.jpg", "real", 23, 31): 127.0, ("RGB/0.jpg", "real", 0, 0): 0.0},
        labels={("RGB/0.jpg", 0, 0): 255, ("RGB/0.jpg", 0, 4): 0, ("RGB/0.jpg", *last): classes - 1},
        left_out={"the photograph is not there": 1, "its real depth is not there": 1},
        rejects={"RGB/6.jpg": "8 bits", "RGB/7.jpg": f"label {classes + 1}"},
    )  # fmt: skip


# --- raw NYU -------------------------------------------------------------------------------------------------------


def swapped_pgm(values: np.ndarray) -> bytes:
    """A PGM of 16 bits whose bytes are little-endian, against the format's rule."""
    return b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype("<u2").tobytes()


def nyu_raw(root: Path) -> Expected:
    """Three scenes; a photograph without a depth map near in time; 2047 and 0; a scene whose depth is all lost."""
    for scene in ("kitchen_0004", "office_0006", "bedroom_0011", "study_0002"):
        for k in range(3):
            values = (600 + ramp(k) // 32).astype(np.uint16)
            values[0, 0], values[0, 1], values[0, 2] = 2047, 0, 1092
            at = 1294886360.0 + k
            rgb = b"P6 32 24 255\n" + photo(k).tobytes()
            put(root / scene / f"r-{at:.6f}-{k}.ppm", rgb)
            if scene != "study_0002":
                put(root / scene / f"d-{at + 0.013:.6f}-{k + 7}.pgm", swapped_pgm(values))
        put(root / scene / "r-1294886399.000000-9.ppm", b"P6 32 24 255\n" + photo(9).tobytes())
        put(root / scene / "a-1294886363.011060-3.dump", bytes(30))
    return Expected(
        train=6, val=3,  # office_0006 is among the tenth of the scenes by hash
        pixels={
            ("kitchen_0004/r-1294886360", "raw", 0, 0): NAN, ("kitchen_0004/r-1294886360", "raw", 0, 1): NAN,
            ("kitchen_0004/r-1294886360", "raw", 0, 2): 10.0,  # 351.3 / 0.5, cut at 10
            ("kitchen_0004/r-1294886360", "raw", 1, 0): 351.3 / (1092.5 - 633),  # 600 + 1064 // 32
        },
        left_out={"no depth map within 0.1 s": 3},
    )  # fmt: skip


def nyu_lists(root: Path) -> Expected:
    """Paths that begin with a slash, as in BTS's lists; a focal length at the end of a line."""
    for k in range(5):
        put(root / "kitchen" / f"rgb_{k:05d}.jpg", encoded(photo(k), "JPEG"))
        millimetres = ramp(k)
        millimetres[:4] = 0
        millimetres[4, 0] = 65535
        put(root / "kitchen" / f"sync_depth_{k:05d}.png", encoded(millimetres))
    line = "/kitchen/rgb_{0:05d}.jpg /kitchen/sync_depth_{0:05d}.png 518.8579\n"
    put(root / "train.txt", "".join(line.format(k) for k in range(3)).encode())
    put(root / "test.txt", "".join(line.format(k) for k in (3, 4, 2)).encode())
    return Expected(
        train=3, val=2,
        pixels={
            ("rgb_00000", "real", 0, 5): NAN, ("rgb_00000", "real", 4, 0): 10.0,
            ("rgb_00000", "real", 5, 2): 1.322,
        },
        left_out={"in both lists, taken as train": 1},
    )  # fmt: skip


# --- others --------------------------------------------------------------------------------------------------------


def scannet(root: Path) -> Expected:
    """Depth of half the photograph's width; two scenes of a room in two splits; a camera without depth."""
    frames = root / "scannet_frames_25k"
    for scene in ("scene0000_00", "scene0001_00", "scene0002_00", "scene0003_00"):
        for frame in (0, 100):
            put(frames / scene / "color" / f"{frame:06d}.jpg", encoded(photo(frame, 48, 64), "JPEG"))
            if scene != "scene0003_00":
                millimetres = ramp(1)
                millimetres[2, 2] = 0
                put(frames / scene / "depth" / f"{frame:06d}.png", encoded(millimetres))
            put(frames / scene / "label" / f"{frame:06d}.png", encoded(labels(frame, 40, 48, 64)))
    put(root / "scannetv2_train.txt", b"scene0000_00\nscene0001_00\nscene0003_00\n")
    put(root / "scannetv2_val.txt", b"scene0002_00\n")
    return Expected(
        train=4, val=2,
        pixels={
            ("scene0000_00/color/000000", "real", 0, 0): 1.2, ("scene0000_00/color/000000", "real", 1, 1): 1.2,
            ("scene0000_00/color/000000", "real", 4, 4): NAN, ("scene0000_00/color/000000", "real", 5, 5): NAN,
            ("scene0000_00/color/000000", "real", 47, 63): 2.703,  # 1200 + 23 * 64 + 31
        },
        # rows 0 to 3: 0, then 1 to 7, then 8 to 15 in blocks of four columns
        labels={("scene0000_00/color/000000", 0, 4): 0, ("scene0000_00/color/000000", 0, 52): 255},
        left_out={"its real depth is not there": 2},
    )  # fmt: skip


def tum(root: Path) -> Expected:
    """Two streams of other rates; a depth map that two photographs would take; a comment in a list."""
    for sequence in ("freiburg1_xyz", "freiburg2_desk", "freiburg3_structure"):
        folder = root / f"rgbd_dataset_{sequence}"
        rgb, depth = ["# color images", "# timestamp filename"], ["# depth maps"]
        for k in range(4):
            name = f"{1305031102.0 + k / 30:.6f}"
            rgb.append(f"{name} rgb/{name}.png")
            put(folder / "rgb" / f"{name}.png", encoded(photo(k)))
        for k in range(3):
            name = f"{1305031102.0 + k / 30 + 0.005:.6f}"
            depth.append(f"{name} depth/{name}.png")
            values = (ramp(k) * 5).astype(np.uint16)
            values[0, :3] = 0
            put(folder / "depth" / f"{name}.png", encoded(values))
        put(folder / "rgb.txt", "\n".join(rgb).encode())
        put(folder / "depth.txt", "\n".join(depth).encode())
    return Expected(
        train=6, val=3,  # freiburg3_structure is among the tenth of the sequences by hash
        pixels={
            ("freiburg1_xyz/rgb/1305031102.000000", "raw", 0, 0): NAN,
            ("freiburg1_xyz/rgb/1305031102.000000", "raw", 1, 0): 1.064,
            ("freiburg1_xyz/rgb/1305031102.033333", "raw", 1, 0): 1.264,
        },
        left_out={"no depth map within 0.02 s": 3},
    )  # fmt: skip


def kitti(root: Path) -> Expected:
    """Photographs of the raw data that have no depth; 256 is a metre; one scan beside eleven."""
    for split, drive in (("train", "2011_09_26_drive_0001"), ("val", "2011_09_26_drive_0002")):
        for frame in range(5, 8):
            values = np.zeros((24, 32), np.uint16)
            values[10:] = 256 * 40 + frame
            values[23, 31] = 256 * 85
            depth = root / split / f"{drive}_sync" / "proj_depth"
            put(depth / "groundtruth" / "image_02" / f"{frame:010d}.png", encoded(values))
            values[::2] = 0
            put(depth / "velodyne_raw" / "image_02" / f"{frame:010d}.png", encoded(values))
        for frame in range(9):
            folder = root / "2011_09_26" / f"{drive}_sync" / "image_02" / "data"
            put(folder / f"{frame:010d}.png", encoded(photo(frame)))
    put(root / "train" / "2011_09_26_drive_0001_sync" / "proj_depth" / "groundtruth" / "image_02" / "notes.txt", b"?")
    return Expected(
        train=3, val=3,
        pixels={
            ("0001_sync/image_02/data/0000000005", "real", 0, 0): NAN,
            ("0001_sync/image_02/data/0000000005", "real", 10, 0): 40 + 5 / 256,
            ("0001_sync/image_02/data/0000000005", "real", 11, 0): 40 + 5 / 256,
            ("0001_sync/image_02/data/0000000005", "raw", 10, 0): NAN,
            ("0001_sync/image_02/data/0000000005", "real", 23, 31): 85,
        },
        left_out={"matches nothing in the description": 1},
    )  # fmt: skip


def hypersim(root: Path) -> Expected:
    """Distances along the ray to a wall 5 m in front; float16 with NaN; an image the split's table leaves out."""
    rows = ["scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name"]
    height, width = 768, 1024
    x = np.arange(width) - 511.5
    y = np.arange(height) - 383.5
    ray = np.sqrt(1 + (x[None] / 886.81) ** 2 + (y[:, None] / 886.81) ** 2)
    train, val = ("ai_001_001", "ai_001_002"), ("ai_002_001", "ai_002_002")
    for scene in (*train, *val, "ai_003_001"):
        split = "train" if scene in train else "val" if scene in val else ""
        images = root / scene / "images"
        put(images / "scene_cam_00_final_preview" / "frame.0000.tonemap.jpg", encoded(photo(1, height, width), "JPEG"))
        distance = (5 * ray).astype(np.float16)
        distance[0, 0], distance[0, 1] = np.nan, np.inf
        label = labels(0, 40, height, width).astype(np.int16)
        label[0, 0] = -1
        geometry = images / "scene_cam_00_geometry_hdf5"
        geometry.mkdir(parents=True)
        for name, values in (("depth_meters", distance), ("semantic", label)):
            with h5py.File(geometry / f"frame.0000.{name}.hdf5", "w") as file:
                file["dataset"] = values
        rows.append(f"{scene},cam_00,0,{'True' if split else 'False'},,{split}")
    put(root / "metadata_images_split_scene_v1.csv", "\n".join(rows).encode())
    return Expected(
        train=2, val=2,
        pixels={
            ("ai_001_001", "exact", 0, 0): NAN, ("ai_001_001", "exact", 0, 1): NAN,
            ("ai_001_001", "exact", 384, 512): 5.0, ("ai_001_001", "exact", 767, 1023): 5.0,
        },
        labels={("ai_001_001", 0, 0): 255, ("ai_001_001", 0, 4): 0},
        left_out={"in neither split": 1},
    )  # fmt: skip


def diode(root: Path) -> Expected:
    """Maps of shape (height, width, 1); a mask; 225 m outdoors."""
    for split, count in (("train", 3), ("val", 2)):
        for k in range(count):
            where = "outdoor" if k == 1 else "indoors"
            scene = 10 * (split == "val") + k
            folder = root / split / where / f"scene_{scene:05d}" / f"scan_{scene:05d}"
            name = f"{scene:05d}_{scene:05d}_{where}_000_010"
            put(folder / f"{name}.png", encoded(photo(k)))
            metres = (ramp(k) / 1000.0).astype(np.float32)
            metres[5, 5] = 225.18 if where == "outdoor" else metres[5, 5]
            mask = np.ones((24, 32), np.float64)
            mask[0] = 0
            for ending, values in (("depth", metres[..., None]), ("depth_mask", mask)):
                buffer = io.BytesIO()
                np.save(buffer, values)
                put(folder / f"{name}_{ending}.npy", buffer.getvalue())
    return Expected(
        train=3, val=2,
        pixels={
            ("scan_00000", "real", 0, 3): NAN, ("scan_00000", "real", 1, 0): 1.064,
            ("scan_00001", "real", 5, 5): 225.18,
        },
    )  # fmt: skip


def void(root: Path) -> Expected:
    """Three densities of points, each with the same photographs; lists that name those of one."""
    for density, step in (("void_1500", 2), ("void_500", 4), ("void_150", 8)):
        for sequence, split in (("corner0", "train"), ("stairs4", "test")):
            lines = []
            for k in range(3):
                name = f"15526253{k}6.9893"
                folder = root / density / "data" / sequence
                values = (ramp(k) // 2).astype(np.uint16)
                put(folder / "image" / f"{name}.png", encoded(photo(k)))
                put(folder / "ground_truth" / f"{name}.png", encoded(values))
                points = np.zeros_like(values)
                points[::step, ::step] = values[::step, ::step]
                valid = np.where(points > 0, 256, 0).astype(np.uint16)
                valid[0, 0] = 0  # a point that is not to be trusted
                put(folder / "sparse_depth" / f"{name}.png", encoded(points))
                put(folder / "validity_map" / f"{name}.png", encoded(valid))
                lines.append(f"{density}/data/{sequence}/image/{name}.png")
            put(root / density / f"{split}_image.txt", "\n".join(lines).encode())
    return Expected(
        train=3, val=3,
        pixels={
            ("corner0/image/1552625306", "real", 0, 0): 500 / 256,
            ("corner0/image/1552625306", "points1500", 0, 0): NAN,
            ("corner0/image/1552625306", "points1500", 2, 2): (1000 + 128 + 2) // 2 / 256,
            ("corner0/image/1552625306", "points500", 2, 2): NAN,
            ("corner0/image/1552625306", "points150", 8, 8): (1000 + 512 + 8) // 2 / 256,
        },
    )  # fmt: skip


SETS = {
    "sunrgbd": sunrgbd, "sunrgbd-scenes": sunrgbd_scenes, "dformer": dformer,
    "dformer-sunrgbd": partial(dformer, classes=37), "nyu-raw": nyu_raw, "nyu-lists": nyu_lists, "scannet": scannet,
    "tum": tum, "kitti": kitti, "hypersim": hypersim, "diode": diode, "void": void,
}  # fmt: skip


def pfm(values: np.ndarray, order: str = "<") -> bytes:
    """A grey PFM: rows from the bottom, the sign of its scale tells the order of bytes."""
    scale = b"-1.0" if order == "<" else b"1.0"
    return b"Pf\n%d %d\n%s\n" % (*values.shape[::-1], scale) + values[::-1].astype(f"{order}f4").tobytes()
