"""A model on a hub, of which only the files that are needed come to this machine; whole files are checked by hash."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers

from shared.checkpoint.digest import DigestMemory
from shared.checkpoint.download import Download, receive
from shared.checkpoint.files import CONFIG, GENERATION_CONFIG, INDEX, TOKENIZER_FILES
from shared.checkpoint.hub_errors import asking_hub
from shared.checkpoint.marker import HubFile, HubOrigin, read_marker, write_marker
from shared.checkpoint.progress import Advance, show_progress
from shared.checkpoint.safetensors_header import Header, parse_header, read_header
from shared.checkpoint.storage import exclusive, require_room, writing
from shared.errors import CheckpointError, HubOffline, ModelNotFound

logger = logging.getLogger(__name__)

LISTING_TIMEOUT_S = 10.0
_KEPT_NAMES = {CONFIG, GENERATION_CONFIG, INDEX, *TOKENIZER_FILES}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of one commit of a repository, mirrored in `directory` as far as they were needed."""

    directory: Path
    memory: DigestMemory
    origin: HubOrigin
    api: HfApi
    offline: bool
    _asked: dict[str, Header] = field(default_factory=dict, repr=False)

    def names(self) -> Collection[str]:
        return self.origin.files.keys()

    def fetch(self, names: Collection[str]) -> None:
        """Downloads what is missing or stale, going on where it was cut off. Raises CheckpointError, DiskFull."""
        missing = [name for name in sorted(names) if not self._is_whole(name)]
        if not missing:
            return
        if self.offline:
            raise HubOffline(f"{self.directory} lacks {missing[0]}, and the hub may not be asked: go online once")
        downloads = [self._download(name) for name in missing]
        received = sum(download.received_bytes for download in downloads)
        total = sum(download.size for download in downloads)
        require_room(self.directory, total - received, f"fetching {self.origin.repository}")
        with show_progress(f"Fetching {self.origin.repository}", total, received) as advance:
            for download in downloads:
                self._fetch_one(download, advance)

    def sha256(self, name: str) -> str:
        """From the hub's list where it has it: shards are hashed without being fetched."""
        if listed := self._listed(name).sha256:
            return listed
        self.fetch([name])
        return self.memory.sha256(self.directory / name)

    def header(self, shard: str) -> Header:
        if self._is_whole(shard):
            return read_header(self.directory / shard)
        if shard not in self._asked:
            self._asked[shard] = self._ask(shard)
        return self._asked[shard]

    def _fetch_one(self, download: Download, advance: Advance) -> None:
        with asking_hub(self.api.endpoint, self.origin.repository), writing(self.directory), exclusive(download.target):
            if self._is_whole(download.target.name):
                return  # by another process, while this one waited
            receive(download, advance)
            if not self._is_whole(download.target.name):
                download.target.unlink()
                raise CheckpointError(f"{download.target.name} came damaged from {self.api.endpoint}: start again")

    def _is_whole(self, name: str) -> bool:
        """True when the file is here and is what the hub lists, by size and by hash."""
        path, listed = self.directory / name, self._listed(name)
        if not path.is_file() or path.stat().st_size != listed.size:
            return False
        if listed.sha256 is not None:
            return self.memory.sha256(path) == listed.sha256
        return self.memory.git_sha1(path) == listed.git_sha1

    def _listed(self, name: str) -> HubFile:
        if name not in self.origin.files:
            raise CheckpointError(f"{self.origin.repository} has no file {name}, which its index names")
        return self.origin.files[name]

    def _download(self, name: str) -> Download:
        repository, commit = self.origin.repository, self.origin.commit
        listed = self._listed(name)
        return Download(
            url=hf_hub_url(repository, name, revision=commit, endpoint=self.api.endpoint),
            headers=build_hf_headers(token=self.api.token),
            target=self.directory / name,
            size=listed.size,
            version=(listed.sha256 or listed.git_sha1 or commit)[:12],
        )

    def _ask(self, shard: str) -> Header:
        if self.offline:
            raise HubOffline(f"{self.directory} lacks {shard}, and the hub may not be asked: go online once")
        origin = self.origin
        with asking_hub(self.api.endpoint, origin.repository):
            found = self.api.parse_safetensors_file_metadata(origin.repository, shard, revision=origin.commit)
        return parse_header({name: vars(tensor) for name, tensor in found.tensors.items()}, data_start=0)


def open_hub(
    repository: str, revision: str | None, folder: Path, memory: DigestMemory, api: HfApi, offline: bool
) -> HubFiles:
    """Lists the repository; where the hub cannot be reached, what was listed last. Raises CheckpointError."""
    known = read_marker(folder)
    known = known if isinstance(known, HubOrigin) else None
    try:
        origin = known if offline and known else _list(repository, revision, api, offline)
    except HubOffline as error:
        if known is None:
            raise
        logger.info("%s: using what the cache holds of commit %s (%s)", repository, known.commit[:12], error)
        origin = known
    if origin != known:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_marker(folder, origin)
    return HubFiles(folder, memory, origin, api, offline)


def _list(repository: str, revision: str | None, api: HfApi, offline: bool) -> HubOrigin:
    if offline:
        raise HubOffline(f"{repository} is not in the cache, and the hub may not be asked: go online once")
    with asking_hub(api.endpoint, repository):
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=LISTING_TIMEOUT_S)
    files = {each.rfilename: _hub_file(each) for each in info.siblings or () if _is_kept(each)}
    if not info.sha or not files:
        raise ModelNotFound(f"{repository} on {api.endpoint} holds no files of a model")
    return HubOrigin(repository, info.sha, files)


def _is_kept(sibling: RepoSibling) -> bool:
    """Files of the repository's root that a model may consist of; a name with a folder in it is none of them."""
    name = sibling.rfilename
    return "/" not in name and "\\" not in name and (name in _KEPT_NAMES or name.endswith(_WEIGHTS))


def _hub_file(sibling: RepoSibling) -> HubFile:
    if sibling.lfs is not None:
        return HubFile(sibling.lfs.size, sibling.lfs.sha256, None)
    return HubFile(sibling.size or 0, None, sibling.blob_id)
