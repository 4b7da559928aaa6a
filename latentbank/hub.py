"""Repositories on the Hugging Face hub: fetch files of them and push files to them, with errors as one sentence.

The login is the hub's own: what `hf auth login` has stored, or HF_TOKEN. huggingface_hub reads it for each request; it
is passed to nothing else, and neither written nor shown.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentbank.errors import LatentBankError
from latentbank.progress import Progress, Silent
from latentbank.text import is_hub_id, public_reason
from latentbank.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from latentbank.hub_cards import Card

Kind = Literal["dataset", "model"]

CARD = "README.md"
# Files that a new repository on the hub has by itself, or that say nothing about what it holds.
_OWN = {".gitattributes", CARD}
# Files that are fetched at the same time, and how much is sent between two marks of the progress.
_THREADS, _SENT = 4, 64 << 20
_MIB = 1 << 20


@dataclass(frozen=True)
class Repository:
    """A repository on the hub.

    Attributes:
        id: its owner and name, such as "lab/captions".
        kind: what it is for the hub.
        revision: a branch, tag or commit of it; None: its main branch.
    """

    id: str
    kind: Kind
    revision: str | None = None

    def __str__(self) -> str:
        """Return the id and the revision, as `repository_of` reads them."""
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit.

    Attributes:
        repository: the repository, its revision resolved to the commit.
        private: whether only its owner, and whom he lets, can read it.
        sizes: the bytes of each file, by name.
    """

    repository: Repository
    private: bool
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Pushed:
    """What a push has left in a repository.

    Attributes:
        repository: the repository's id.
        url: its page.
        commit: the commit that holds the files.
        private: whether only its owner, and whom he lets, can read it.
        files: how many files were pushed, sent now or there before.
        bytes: their size.
    """

    repository: str
    url: str
    commit: str
    private: bool
    files: int
    bytes: int


def repository_of(text: str, kind: Kind) -> Repository | None:
    """Return the repository that "USER/NAME" or "USER/NAME@REVISION" names; None if the text has another form."""
    name, mark, revision = text.partition("@")
    if not is_hub_id(name, owner=True) or (mark and not revision):
        return None
    return Repository(name, kind, revision or None)


def list_files(repository: Repository) -> Listing:
    """Return what a repository holds; under HF_HUB_OFFLINE, what the hub's own cache holds of it.

    Raises:
        LatentBankError: there is no such repository or revision, or it cannot be read.
    """
    if _offline() and (cached := _cached(repository)):
        return cached
    with _sentences(repository, "read"):
        return _listing(_api(), repository)


def fetch_files(
    listing: Listing, names: Sequence[str], progress: Progress | None = None, *, again: bool = False
) -> Path:
    """Return the folder that holds files of a repository, downloaded to the hub's own cache where they are not there.

    Files that were downloaded before stay. A connection that breaks is taken up again within a file.

    Args:
        listing: what the repository holds.
        names: the files, one at least; all must be in `listing`.
        progress: counts the MiB of files that are there.
        again: download files even if the cache has them.

    Raises:
        LatentBankError: a file cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    progress = progress or Silent()
    repository = listing.repository

    def fetch(name: str) -> Path:
        file = hf_hub_download(
            repository.id,
            name,
            repo_type=repository.kind,
            revision=repository.revision,
            library_name="latentbank",
            library_version=__version__,
            force_download=again,
        )
        return Path(file).parents[name.count("/")]

    done, total = 0, sum(listing.sizes[name] for name in names)
    folders: set[Path] = set()
    with _sentences(repository, "read"), _quiet():
        progress.update(0, total / _MIB)
        pool = ThreadPoolExecutor(_THREADS)
        try:
            running = {pool.submit(fetch, name): name for name in names}
            for finished in as_completed(running):
                folders.add(finished.result())
                done += listing.sizes[running[finished]]
                progress.update(done / _MIB, total / _MIB)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    (folder,) = folders  # one commit, so one folder
    return folder


def prepare_push(name: str, kind: Kind, *, public: bool, holds: str) -> Listing:
    """Make a repository that files can be pushed to, private unless `public`, or return what an existing one holds.

    Args:
        name: "USER/NAME", the name of a repository of this `kind`.
        public: whether everybody may read what is pushed.
        holds: a file that is in every repository of this use; one with other files but not this one is refused.

    Raises:
        LatentBankError: the name has another form, nobody is logged in, the login may not write there, the repository
            holds something else, or it is public and `public` is not set.
    """
    from huggingface_hub import get_token

    repository = repository_of(name, kind)
    if repository is None:
        raise LatentBankError(
            f"'{name}' is no repository on the hub; write it as USER/NAME.", argument="push"
        )
    if repository.revision is not None:
        raise LatentBankError(
            f"Files are pushed to the main branch of {repository.id}; leave the revision out."
        )
    with _sentences(repository, "write"):
        if not _offline() and get_token() is None:
            raise LatentBankError(
                "You are not logged in to the hub; log in with `hf auth login`, or set HF_TOKEN."
            )
        api = _api()
        api.create_repo(repository.id, repo_type=repository.kind, private=not public, exist_ok=True)
        listing = _listing(api, repository)
    if not listing.private and not public:
        raise LatentBankError(
            f"{repository.id} can be read by everybody, and so could what is pushed; allow that, or choose another "
            "repository.",
            argument="public",
        )
    if listing.sizes.keys() - _OWN and holds not in listing.sizes:
        raise LatentBankError(
            f"{repository.id} holds other files, and no {holds}; choose another repository."
        )
    return listing


def push_files(
    listing: Listing,
    files: Mapping[str, Path],
    card: Card,
    progress: Progress | None = None,
    stale: Collection[str] = (),
) -> Pushed:
    """Send files to a repository, and make one commit of them at the end: others see all of them or none.

    Called again after an interruption, it sends what the hub does not have yet.

    Args:
        listing: what the repository holds, as `prepare_push` has found it.
        files: the files, by their names in the repository.
        card: what its README.md says.
        progress: counts the MiB sent.
        stale: files that are removed.

    Raises:
        LatentBankError: the files cannot be sent, or others have changed the repository in the meantime.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, RepoCard

    progress, api, repository = progress or Silent(), _api(), listing.repository
    old = (fetch_files(listing, [CARD]) / CARD).read_text("utf-8") if CARD in listing.sizes else None
    sizes = {name: path.stat().st_size for name, path in files.items()}
    done, total = 0, sum(sizes.values())
    text = card.written(old)
    with _sentences(repository, "write"), _quiet():
        RepoCard(text).validate(repo_type=repository.kind)  # before hours of sending
        where: dict[str, Any] = {"repo_id": repository.id, "repo_type": repository.kind}
        operations: list[Any] = []
        progress.update(0, total / _MIB)
        for batch in _batches(sizes):
            added = [CommitOperationAdd(name, str(files[name])) for name in batch]
            api.preupload_lfs_files(additions=added, free_memory=False, **where)
            operations += added
            done += sum(sizes[name] for name in batch)
            progress.update(done / _MIB, total / _MIB)
        operations.append(CommitOperationAdd(CARD, text.encode()))
        operations += [CommitOperationDelete(name) for name in sorted(stale)]
        commit = api.create_commit(
            operations=operations,
            commit_message=f"{card.title} (latentbank {__version__})",
            parent_commit=repository.revision,
            **where,
        )
    kind = "" if repository.kind == "model" else f"{repository.kind}s/"
    return Pushed(
        repository=repository.id,
        url=f"{api.endpoint}/{kind}{repository.id}",
        commit=commit.oid,
        private=listing.private,
        files=len(files),
        bytes=total,
    )


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the names of files in groups that are sent together."""
    batch: list[str] = []
    for name in sorted(sizes):
        batch.append(name)
        if sum(sizes[other] for other in batch) >= _SENT:
            yield batch
            batch = []
    if batch:
        yield batch


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="latentbank", library_version=__version__)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _listing(api: HfApi, repository: Repository) -> Listing:
    from huggingface_hub.hf_api import RepoFile

    info = api.repo_info(repository.id, repo_type=repository.kind, revision=repository.revision)
    tree = api.list_repo_tree(repository.id, recursive=True, revision=info.sha, repo_type=repository.kind)
    sizes = {item.path: item.size for item in tree if isinstance(item, RepoFile)}
    return Listing(Repository(repository.id, repository.kind, info.sha), bool(info.private), sizes)


def _cached(repository: Repository) -> Listing | None:
    """Return what the hub's cache has of a repository at its revision; None if it has nothing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repository.id,
                repo_type=repository.kind,
                revision=repository.revision,
                allow_patterns=[],  # the folder, whatever is in it
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    return Listing(replace(repository, revision=folder.name), private=True, sizes=sizes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub from drawing bars of its own beside ours, and from describing each of its attempts."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    drawn, log = not are_progress_bars_disabled(), logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    if drawn:
        disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if drawn:
            enable_progress_bars()


@contextmanager
def _sentences(repository: Repository, doing: Literal["read", "write"]) -> Iterator[None]:
    """Turn errors of huggingface_hub, and of the connection below it, into one sentence that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The base of errors of the connection, whichever client this version of huggingface_hub uses.
    connection: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except LatentBankError:
        raise
    except OfflineModeIsEnabled:
        what = "" if doing == "write" else f"{repository.id} is nothing on this machine. "
        raise LatentBankError(f"{what}The hub is not asked while HF_HUB_OFFLINE is set; unset it.") from None
    # RuntimeError and ValueError: what huggingface_hub makes of a file that could not be sent.
    except (connection, OSError, RuntimeError, ValueError) as error:
        raise LatentBankError(_sentence(error, repository, doing)) from None


def _sentence(error: BaseException, repository: Repository, doing: Literal["read", "write"]) -> str:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, kind = repository.id, repository.kind
    # huggingface_hub wraps some errors of the hub in others.
    while not isinstance(error, HfHubHTTPError) and (inner := error.__cause__ or error.__context__):
        error = inner
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    login = "check the name, and your login (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, GatedRepoError):
        return f"{name} wants its conditions accepted; accept them on its page on the hub, and log in."
    if status == 401 and (doing == "write" or "Invalid" in str(error)):
        return "The hub does not know your login; log in again with `hf auth login`, or set HF_TOKEN anew."
    if status == 403:
        return f"Your login may not {doing} {name}; use a token that may, or another repository (`hf auth login`)."
    if status == 400:
        return f"The hub refuses what is pushed to {name} ({public_reason(error)[:200]}); correct it and push again."
    if isinstance(error, RepositoryNotFoundError):
        here = ", and nothing of that name here" if doing == "read" else ""
        return (
            f"There is no {kind} repository {name} on the hub, or your login may not read it{here}; {login}."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision '{repository.revision}'; name a branch, a tag or a commit of it."
    if status in (409, 412):
        return f"{name} was changed by others in the meantime; push again."
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return f"A file is missing from {repository} on the hub; ask its owner to push it again."
    what = "be downloaded from" if doing == "read" else "be pushed to"
    why = public_reason(error)[:150]
    return f"{name} could not {what} the hub ({why}); the same call goes on where this one stopped."
