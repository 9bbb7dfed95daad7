"""CONTRACT: RGB-D shards. `records`: index and per-shard JSON; `write`; `read`. Imports no torch.

A data set is `OUT/<split>/shard-000000.tar` (plain WebDataset tars), one `shard-000000.json` beside each tar (keys,
byte ranges, checksums, rejects) and one `index.json` (written last). Fields of a sample:

| member       | holds                                                                | read as                     |
|--------------|----------------------------------------------------------------------|-----------------------------|
| `rgb.jpg`    | the photograph (`rgb.png` where the source is lossless)              | uint8 (height, width, 3)    |
| `pseudo.pdz` | z of the teacher's estimate                                          | float32 (height, width)     |
| `real.pdz`   | z of sensor depth, holes filled                                      | float32 (height, width)     |
| `raw.pdz`    | z of sensor depth as measured, NaN where nothing was measured        | float32 (height, width)     |
| `exact.pdz`  | z of rendered depth (toy rooms only)                                 | float32 (height, width)     |
| `cls`        | class index, decimal ASCII                                           | int                         |
| `seg.png`    | per-pixel labels, 255 = void                                         | uint8 (height, width)       |
| `json`       | source, original size, per-image depth min/max/mean/std, valid part  | dict                        |

Every depth field is z-standardised and farther-is-larger; `index.depth[field]` undoes it. Tars are byte-identical for
the same inputs: names sorted, mtime and owner zero.
"""

from pipeline.shards.read import (
    Sample,
    Split,
    decode_member,
    open_split,
    splits_of,
)
from pipeline.shards.records import (
    DEPTH_FIELDS,
    INDEX_REJECTS,
    SCHEMA_VERSION,
    SPLITS,
    VOID,
    DepthField,
    NewerSchemaError,
    Reject,
    SampleEntry,
    ShardError,
    ShardIndex,
    ShardRecord,
    ShardSummary,
    config_hash,
    depth_statistics,
    describe_depth,
    load_index,
    load_record,
    moments_of,
)
from pipeline.shards.write import (
    file_sha256,
    png_bytes,
    write_atomically,
    write_shard,
)

__all__ = [
    "DEPTH_FIELDS",
    "INDEX_REJECTS",
    "SCHEMA_VERSION",
    "SPLITS",
    "VOID",
    "DepthField",
    "NewerSchemaError",
    "Reject",
    "Sample",
    "SampleEntry",
    "ShardError",
    "ShardIndex",
    "ShardRecord",
    "ShardSummary",
    "Split",
    "config_hash",
    "decode_member",
    "depth_statistics",
    "describe_depth",
    "file_sha256",
    "load_index",
    "load_record",
    "moments_of",
    "open_split",
    "png_bytes",
    "splits_of",
    "write_atomically",
    "write_shard",
]
