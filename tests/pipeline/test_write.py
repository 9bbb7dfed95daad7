"""Writing a shard."""

import io
import tarfile

from pipeline import shards
from pipeline.shards.storage import LocalStore


def test_a_shard_is_the_tar_that_tarfile_writes(tmp_path):
    samples = [(f"room-{k}", {"rgb.png": bytes([k]) * size, "json": b"{}"}) for k, size in enumerate((0, 1, 512, 9999))]
    record = shards.write_shard(
        LocalStore(tmp_path), "shard-000000", samples, listing="", num_listed=4, rejects=[], moments={}, constants={}
    )
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for extension in sorted(members):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mode = len(members[extension]), 0o644
                tar.addfile(info, io.BytesIO(members[extension]))
    written = (tmp_path / "shard-000000.tar").read_bytes()
    assert written == expected.getvalue()
    for place, (_, members) in enumerate(samples):
        for extension, data in members.items():
            extents = record.members[extension]
            assert written[extents.offset[place] :][: extents.length[place]] == data
