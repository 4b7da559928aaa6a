"""Which tests pytest-xdist gives to one worker."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

# Folders whose files share what takes long to start: one worker runs them all.
TOGETHER = ("tests/browser/",)


class FileScheduling(LoadFileScheduling):
    """The tests of a file stay together, as with `--dist loadfile`, and so do those of some folders."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)
