"""Weights of a hub repository, into the hub client's cache, in one run or several.

The client resumes a broken connection while it runs, but when it ends it discards what
it has of a file, and one of 397B's shards has 8.6 GB. So shards are fetched here: what
has arrived waits beside the client's blobs, and the next run asks for the rest. The
client finds the blobs and does everything else.
"""

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...units import human


@dataclass(frozen=True)
class Shard:
    """A file to fetch from `url`; `etag` names its content, mostly by sha256."""

    name: str
    url: str
    etag: str
    size: int
    blobs: Path

    @property
    def partial(self):
        return self.blobs / (self.etag + ".partial")

    def kept(self):
        """Bytes of it that are here."""
        for path in (self.blobs / self.etag, self.partial):
            if path.exists():
                return path.stat().st_size
        return 0


def fetch(repository, revision):
    """Get every safetensors file of a repository that the cache does not hold.

    Raises InputError where the disk has too little room, and Incomplete, which says
    how much is kept, when the transfer ended early.
    """
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        shards = missing_shards(repository, revision)
    except Exception:  # the client will meet it too, or have everything in its cache
        return
    if not shards:
        return
    total, kept = sum(s.size for s in shards), sum(s.kept() for s in shards)
    shards[0].blobs.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(shards[0].blobs).free
    if total - kept > free:
        raise InputError(
            f"{repository} needs {human(total - kept)} more in "
            f"{shards[0].blobs.parents[1]}, whose disk has {human(free)} free; make "
            "room, or set HF_HOME to a folder on another disk."
        )
    try:
        for shard in shards:
            get_shard(shard)
    except Exception as err:  # of the disk, or of whichever HTTP library there is
        raise Incomplete(err, sum(s.kept() for s in shards), total) from err


class Incomplete(OSError):
    """The transfer ended early; `kept` of `total` bytes are here."""

    def __init__(self, cause, kept, total):
        super().__init__(str(cause) or type(cause).__name__)
        self.kept, self.total = kept, total


def missing_shards(repository, revision):
    """The Shards that are not in the cache, as the hub has them now."""
    from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    info = HfApi().model_info(repository, revision=revision)
    folder = repo_folder_name(repo_id=repository, repo_type="model")
    blobs, shards = Path(constants.HF_HUB_CACHE) / folder / "blobs", []
    for name in sorted(sibling.rfilename for sibling in info.siblings or ()):
        # Nested folders hold other formats of the same weights.
        if not name.endswith(".safetensors") or "/" in name:
            continue
        if (blobs.parent / "snapshots" / info.sha / name).exists():
            continue
        url = hf_hub_url(repository, name, revision=info.sha)
        found = get_hf_file_metadata(url)
        if found.etag and found.size and not (blobs / found.etag).exists():
            shards.append(Shard(name, url, found.etag, found.size, blobs))
    return shards


def get_shard(shard):
    """Fetch the rest of a shard; leaves a blob, or what has arrived of it."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    blob = shard.blobs / shard.etag
    with WeakFileLock(str(shard.blobs / (shard.etag + ".lock"))):
        if blob.exists():
            return  # another process was faster
        with open(shard.partial, "ab") as file:
            begun = file.tell()
            http_get(
                shard.url, file, resume_size=begun, headers=build_hf_headers(),
                expected_size=shard.size, displayed_filename=shard.name,
            )  # fmt: skip
            file.flush()
            os.fsync(file.fileno())  # before the name that says it is complete
        if begun and not intact(shard):
            shard.partial.unlink()
            raise OSError(f"{shard.name} arrived damaged and was removed")
        os.replace(shard.partial, blob)


def intact(shard):
    """Does a file that came in several runs have its etag's sha256, if it is one?"""
    if len(shard.etag) != 64:
        return True
    with open(shard.partial, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == shard.etag
