"""Every random number of a sample follows from (seed, epoch, key), those of a mixing group from (seed, group).

So nothing depends on workers, ranks, batches or history.
"""

import hashlib

import numpy as np


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that are a pure function of `parts`."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))
