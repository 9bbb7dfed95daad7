"""CONTRACT: RGB-D shards. Imports no torch.

`records`: index and per-shard JSON; `write`; `decode`: members; `read`: samples; `storage`; `order`; `masks`.

A data set is `OUT/<split>/shard-000000.tar` (plain WebDataset tars), one `shard-000000.json` beside each tar (keys,
byte ranges, checksums, rejects) and one `index.json` (written last; what the source held beside the samples is in its
`left_out`, by reason). Fields of a sample:

| member       | holds                                                                | read as                     |
|--------------|----------------------------------------------------------------------|-----------------------------|
| `rgb.jpg`    | the photograph (`rgb.png` where the source is lossless)              | uint8 (height, width, 3)    |
| `pseudo.pdz` | z of the teacher's estimate                                          | float32 (height, width)     |
| `real.pdz`   | z of sensor depth, holes filled                                      | float32 (height, width)     |
| `raw.pdz`    | z of sensor depth as measured, NaN where nothing was measured        | float32 (height, width)     |
| `exact.pdz`  | z of rendered depth (toy rooms and digits only)                      | float32 (height, width)     |
| `cls`        | class index, decimal ASCII                                           | int                         |
| `seg.png`    | per-pixel labels, 255 = void                                         | uint8 (height, width)       |
| `json`       | source, original size, per-image depth min/max/mean/std, valid part  | dict                        |

The json of digits has more: `overlap`, the pixels where both digits are, as `runs_of` writes a mask and `mask_of` reads
it. Depth alone tells which label they have.

`precompute-depth add` puts one more depth field beside a finished split, `OUT/<split>/<field>/shard-000000.tar`: tar
for tar the same keys in the same order, with a JSON and an index of its own. A sample has two members there: the map
(`da3.pdz`) and what the json of the sample would say of it (`da3.json`). `Split` reads both tars as one sample.

A depth field may have any other name of small letters, digits and hyphens (`DepthName`): own fields and teachers.
Every depth field is z-standardised and farther-is-larger; `index.depth[field]` undoes it. Tars are byte-identical for
the same inputs: names sorted, mtime and owner zero.
"""

from pipeline.shards.decode import Members, Sample, decode_depth, decode_member
from pipeline.shards.masks import mask_of, runs_of
from pipeline.shards.order import ORDER_ROUNDS, permuted
from pipeline.shards.read import TABLES, Split, check_beside, is_empty, open_split, splits_of, unfinished
from pipeline.shards.records import (
    DEPTH_FIELDS,
    INDEX_REJECTS,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    SPLITS,
    VOID,
    Count,
    DepthName,
    Hash,
    HashSum,
    LeftOut,
    NewerSchemaError,
    Provenance,
    Reject,
    ShardError,
    ShardIndex,
    ShardRecord,
    ShardSummary,
    SidecarIndex,
    StoredDepth,
    Text,
    config_hash,
    depth_statistics,
    describe_depth,
    is_depth_name,
    load_index,
    load_record,
    load_sidecar,
    moments_of,
    teacher_note,
)
from pipeline.shards.storage import StorageError, Store, exists, open_store, publish, sha256_of
from pipeline.shards.write import png_bytes, write_shard

__all__ = [
    "DEPTH_FIELDS",
    "INDEX_REJECTS",
    "ORDER_ROUNDS",
    "READABLE_VERSIONS",
    "SCHEMA_VERSION",
    "SPLITS",
    "TABLES",
    "VOID",
    "Count",
    "DepthName",
    "Hash",
    "HashSum",
    "LeftOut",
    "Members",
    "NewerSchemaError",
    "Provenance",
    "Reject",
    "Sample",
    "ShardError",
    "ShardIndex",
    "ShardRecord",
    "ShardSummary",
    "SidecarIndex",
    "Split",
    "StorageError",
    "Store",
    "StoredDepth",
    "Text",
    "check_beside",
    "config_hash",
    "decode_depth",
    "decode_member",
    "depth_statistics",
    "describe_depth",
    "exists",
    "is_depth_name",
    "is_empty",
    "load_index",
    "load_record",
    "load_sidecar",
    "mask_of",
    "moments_of",
    "open_split",
    "open_store",
    "permuted",
    "png_bytes",
    "publish",
    "runs_of",
    "sha256_of",
    "splits_of",
    "teacher_note",
    "unfinished",
    "write_shard",
]
