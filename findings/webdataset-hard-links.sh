#!/usr/bin/env bash
# A photograph that a tar holds as a hard link never reaches a webdataset pipeline, and nothing says so.
#
# Guess: webdataset reads a hard-linked member as `tar -x` and Python's tarfile do: with the bytes of its target.
# Seen (webdataset 1.0.2, Python 3.11): members that are no plain files are skipped. The sample comes with its label and
# without its image; `to_tuple` with a handler that goes on, as long runs have, drops it. GNU tar writes hard links by
# itself where two names share an inode, which a deduplicator (rdfind, jdupes, hardlink) or `cp -l` makes of a data set.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cd "$dir"
printf 'picture' > a.jpg
ln a.jpg b.jpg
printf '0' > a.cls
printf '1' > b.cls
tar --create --file shard.tar --format=ustar a.jpg a.cls b.jpg b.cls
tar --list --verbose --file shard.tar | grep -q 'b.jpg link to a.jpg'
"$dir/venv/bin/python" - <<'PY'
import tarfile
import webdataset as wds

with tarfile.open("shard.tar") as tar:
    assert tar.extractfile("b.jpg").read() == b"picture"  # tarfile follows the link
samples = {}
for sample in wds.WebDataset("shard.tar", shardshuffle=False):
    samples[sample["__key__"]] = sorted(name for name in sample if not name.startswith("__"))
print(samples)
assert samples == {"a": ["cls", "jpg"], "b": ["cls"]}, samples
pairs = list(wds.WebDataset("shard.tar", shardshuffle=False).to_tuple("jpg", "cls", handler=wds.ignore_and_continue))
print(pairs)
assert pairs == [(b"picture", b"0")], pairs
PY
echo "as seen: the hard-linked photograph is not delivered"
