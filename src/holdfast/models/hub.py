"""Embedders on the Hugging Face Hub, fetched and uploaded by huggingface_hub (extra ``hub``)."""

import re
from collections.abc import Sequence
from pathlib import Path

from holdfast.models import zoo
from holdfast.util.errors import HoldfastError, brief, nearest
from holdfast.util.extras import require

FILES = ("config.json", "model.safetensors")
"""What an embedder is made of."""

ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@(.+))?")
"""``owner/name`` or ``owner/name@revision``."""

LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"
UNREACHABLE = "the Hub cannot be reached (no network, or HF_HUB_OFFLINE is set)"
REASONS = {
    "GatedRepoError": f"it is gated: ask for access on its page, and {LOG_IN}",
    "RepositoryNotFoundError": f"there is no such repository, or it is private: check the name, or {LOG_IN}",
    "RevisionNotFoundError": "it has no such revision",
    "HFValidationError": "that is no name of a repository (owner/name: letters, digits, - _ ., at most 96 characters)",
    "LocalTokenNotFoundError": f"you are not logged in: {LOG_IN}",
    "IncompleteSnapshotError": f"{UNREACHABLE}, and the copy in the cache is incomplete",
    "LocalEntryNotFoundError": f"{UNREACHABLE}, and there is no copy in the cache",
    **dict.fromkeys(("OfflineModeIsEnabled", "ConnectionError", "TransportError", "RequestException"), UNREACHABLE),
}
"""What the errors of huggingface_hub and of the networking below it mean, the more special ones first."""


def located(source: str | Path, revision: str | None = None) -> Path:
    """The folder of an embedder: a local one, that of ``zoo:NAME``, or the cached copy of ``owner/name`` on the Hub.

    A local folder wins, and a Path is always local. Raises HoldfastError where nothing can be fetched.
    """
    local = isinstance(source, Path) or zoo.is_entry(source) or Path(source).is_dir()
    if local or not (parts := ID.fullmatch(str(source))):
        if revision is not None:
            raise HoldfastError(f"{source} is no repository on the Hub: leave out revision {revision!r}")
        return zoo.located(source)
    if revision is not None and parts[2] is not None:
        raise HoldfastError(f"{source} names a revision already; leave out {revision!r}")
    return fetch(parts[1], revision or parts[2])


def fetch(repository: str, revision: str | None = None) -> Path:
    """The folder in the Hub's cache with the two files of ``owner/name``, at a branch, tag or commit.

    What is in the cache is not fetched again, and serves without a network too (``HF_HUB_OFFLINE=1``). Raises
    HoldfastError for a repository that is absent, closed or not reachable, or that holds no embedder.
    """
    folder, where = _snapshot(repository, revision, FILES), _at(repository, revision)
    if absent := [name for name in FILES if not (folder / name).is_file()]:
        cut = f"or its download was cut short: {folder} lacks {' and '.join(absent)}"
        raise HoldfastError(f"{where} holds no embedder that holdfast wrote, {cut}")
    return folder


def opened(source: str, patterns: Sequence[str]) -> Path:
    """A local folder, or that with the matching files of ``owner/name[@revision]``, in the Hub's cache.

    Raises HoldfastError where there is neither.
    """
    if source and Path(source).is_dir():
        return Path(source)
    if not (parts := ID.fullmatch(source)):
        is_file = Path(source).is_file()
        found = "it is a file, not a folder" if is_file else f"there is no such folder{nearest(Path(source))}"
        raise HoldfastError(f"{source!r} names no model: {found}; on the Hub a model is called OWNER/NAME")
    return _snapshot(parts[1], parts[2], patterns)


def _snapshot(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    try:
        api = require("huggingface_hub", "hub")
        return Path(api.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except HoldfastError as error:
        raise HoldfastError(f"there is no folder {repository}, and to look for it on the Hub: {error}") from error
    except Exception as error:
        reason = f"{_at(repository, revision)} cannot be fetched: {_reason(error)}"
        raise HoldfastError(f"there is no folder {repository}, and {reason}") from error


def _at(repository: str, revision: str | None) -> str:
    return repository if revision is None else f"{repository}@{revision}"


def push(folder: Path, repository: str, *, private: bool | None, token: str | None) -> str:
    """Upload a folder into ``owner/name``, which is made if need be; the address of the repository.

    private: of a repository that is made; None: as the account's settings have it. token: by default that of the login.
    Raises HoldfastError where that is not allowed or not possible.
    """
    api = require("huggingface_hub", "hub").HfApi(token=token)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload an embedder of holdfast")
    except Exception as error:
        raise HoldfastError(f"cannot upload to {repository}: {_reason(error)}") from error
    return str(address)


def _reason(error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return next((text for kind, text in REASONS.items() if kind in kinds), brief(error))
