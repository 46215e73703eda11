"""From what the user typed to a folder on this machine.

A name like `org/model` that is no path here is fetched from the Hugging Face Hub into
its usual cache: only safetensors, JSON, templates and text, never a pickle or code. A
download that broke off is resumed.
"""

import os
import re
from pathlib import Path

from ...errors import InputError, show
from ...files import read_whole, telling
from ...units import human
from .fetch import Incomplete, fetch

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
UNFINISHED = "minqwen-convert.json"  # is there while a folder is being written
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt"]


def resolve(path_or_hub_id, revision=None, wanted=WANTED):
    """The local folder or file meant by a path or a hub id; downloads if needed.

    `revision` is a branch, tag or commit of the repository, `wanted` the names or
    patterns of the files to fetch. Raises InputError if there is neither such a path
    nor such a repository, if it may not be read, or if the network is missing.
    """
    if not isinstance(path_or_hub_id, str | os.PathLike):
        kind = type(path_or_hub_id).__name__
        raise InputError(f"a checkpoint is given as {kind}; give a path or a hub id.")
    path = Path(os.path.expanduser(path_or_hub_id))
    with telling(path, "read"):  # a name may be too long to ask for
        there, unfinished = path.exists(), (path / UNFINISHED).exists()
    if unfinished:
        raise InputError(
            f"{show(path)} is a conversion that did not finish; run minqwen convert "
            "with the same source and options again, and it goes on where it stopped."
        )
    if there:
        if revision is not None:
            raise InputError(
                f"revision {show(revision)} was asked for, but {show(path)} is a local "
                "path; revisions belong to hub ids."
            )
        return _snapshot(path)
    name = os.fspath(path_or_hub_id)
    if not HUB_ID.fullmatch(name) or path.suffix in (".safetensors", ".gguf"):
        raise InputError(
            f"{show(path)} does not exist; give a checkpoint's folder, a .safetensors "
            "or .gguf file, or a hub id such as Qwen/Qwen3.5-0.8B."
        )
    return _download(name, revision, wanted)


def _snapshot(path):
    """`path`, or its snapshot if it is a repository's folder in the hub cache."""
    repository = path.parent if path.name == "snapshots" else path
    if not repository.name.startswith("models--") or not path.is_dir():
        return path
    found = sorted(f for f in (repository / "snapshots").glob("*") if f.is_dir())
    if len(found) == 1:
        return found[0]
    what = "two or more snapshots" if found else "no snapshot"
    names = ", ".join(show(f.name) for f in found)
    main = repository / "refs" / "main"
    if main.is_file() and main.stat().st_size < 100:
        names += f" (main is {show(read_whole(main).decode(errors='replace'))})"
    give = f"give one of them: {names}" if found else "download it again"
    raise InputError(f"{show(repository)} holds {what}; {give}.")


def _download(name, revision, wanted):
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError:
        raise InputError(
            f"{name} is not a local path, and downloading it needs the huggingface_hub "
            "package; pip install huggingface_hub."
        ) from None
    cause = None
    try:
        if "*.safetensors" in wanted and not constants.HF_HUB_OFFLINE:
            fetch(name, revision)
        # Nested folders hold other formats of the same weights: leave them.
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns="*/*"
            )
        )
    except errors.GatedRepoError:
        fault = "asks for its terms to be accepted; do so on its page, then log in"
    except errors.RepositoryNotFoundError:
        fault = "is neither a local path nor a hub repository you may read"
    except errors.RevisionNotFoundError:
        fault = f"has no revision {show(revision)} on the hub"
    except errors.LocalEntryNotFoundError:
        fault = "is not, or not wholly, in the local cache, and the hub is unreachable"
    except errors.HFValidationError:
        fault = "is neither a local path nor a possible hub id"
    except InputError:
        raise
    except Exception as err:  # the HTTP library beneath differs between releases
        cause, fault = err, show(str(err) or type(err).__name__)
        status = getattr(getattr(err, "response", None), "status_code", None)
        kept = ""
        if isinstance(err, Incomplete):
            kept = f": {human(err.kept)} of {human(err.total)} are kept"
        fault = f"was not downloaded completely ({fault}){kept}; run the same command"
        fault += " again to continue"
        if status in (401, 403):
            fault = (
                f"may not be read by you (HTTP {status}); log in with `hf auth login`, "
                "or set HF_TOKEN to a token that may read it"
            )
    if Path(name).parent.is_dir():  # so a path may have been meant
        name = f"{name} is no folder here, and as a hub id"
    raise InputError(f"{name} {fault}.") from cause
