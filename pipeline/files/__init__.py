"""Files for all three stages: written whole or not at all (`atomic`, `disk`), read where they may be anybody's
(`reading`). Imports nothing heavy."""

from pipeline.files.atomic import (
    WriteError,
    cannot_write,
    check_writable,
    folder_in,
    is_hidden,
    making,
    mend,
    put,
    refuse_links,
    remove,
    set_aside,
    sweep,
    take_away,
    whole,
    write_whole,
    writing,
)
from pipeline.files.disk import lock_file, sync, sync_tree
from pipeline.files.reading import ReadError, is_litter, listed, parsed_json, read_bytes, reason, too_deep

__all__ = [
    "ReadError",
    "WriteError",
    "cannot_write",
    "check_writable",
    "folder_in",
    "is_hidden",
    "is_litter",
    "listed",
    "lock_file",
    "making",
    "mend",
    "parsed_json",
    "put",
    "read_bytes",
    "reason",
    "refuse_links",
    "remove",
    "set_aside",
    "sweep",
    "sync",
    "sync_tree",
    "take_away",
    "too_deep",
    "whole",
    "write_whole",
    "writing",
]
