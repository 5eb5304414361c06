"""Files of data sets as people have them: found, unpacked where they are compressed, refused where damaged."""

import gzip
import os
import zlib
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from laser_fl.errors import DataError, reason_of

DATA_VARIABLE = "LASER_FL_DATA"
GZIP = b"\x1f\x8b"  # the beginning of gzip's files, whatever their name: some browsers unpack and keep the name
PAGE = (b"<!doctype", b"<html")  # servers send a page instead of a file
DAMAGED = (OSError, EOFError, KeyError, RuntimeError, zlib.error, BadZipFile)


def cache_folder() -> Path:
    """Return the user's folder of files that can be had again: $XDG_CACHE_HOME/laser-fl, else ~/.cache/laser-fl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "laser-fl").expanduser()


def default_folder() -> Path:
    """Return the folder of the data sets of a run that sets no data-dir: $LASER_FL_DATA, else a cache folder."""
    return Path(os.environ.get(DATA_VARIABLE) or cache_folder()).expanduser()


@dataclass(frozen=True)
class Source:
    """A file, or a member of a zip archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return str(self.path / self.member)

    @property
    def stamp(self) -> str:
        """A text that differs between files, and between versions of a file, without reading them."""
        status = self.path.stat()
        return f"{self.path.resolve()} {self.member} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"

    def read(self) -> bytes:
        """Return the unpacked content. Raises DataError where it cannot be read, is not whole, or is a web page."""
        try:
            data = self._unpacked()
        except DAMAGED as error:
            raise DataError(f"{self}: must be a whole, readable file ({reason_of(error)})") from None
        if data[:64].lstrip().lower().startswith(PAGE):
            raise DataError(f"{self}: must be data, got a web page")
        return data

    def text(self) -> str:
        """Return the content as text, with Unix line ends, without a byte-order mark.

        Raises:
            DataError: it is not UTF-8, or as `read` does.
        """
        data = self.read()
        try:
            return data.removeprefix(BOM_UTF8).decode().replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{self}: must be UTF-8, got {data[error.start]:#04x} as byte {error.start}") from None

    def _unpacked(self) -> bytes:
        if self.member:
            with ZipFile(self.path) as archive:
                return archive.read(self.member)
        data = self.path.read_bytes()
        return gzip.decompress(data) if data.startswith(GZIP) else data


def found(folders: Sequence[Path], files: Sequence[Sequence[str]]) -> list[Source] | None:
    """Find the files of a data set, in the first of the folders that has any; None where none has.

    files: for each, the names that it may have; the first counts where several are there.

    Raises:
        DataError: the folder has some of them only.
    """
    for folder in folders:
        there = [next((folder / name for name in names if (folder / name).is_file()), None) for names in files]
        paths = [path for path in there if path is not None]
        if paths and len(paths) < len(files):
            lacking = " or ".join(files[there.index(None)])
            raise DataError(f"{folder}: must have {lacking} beside {paths[0].name}, not found")
        if paths:
            return [Source(path) for path in paths]
    return None


def missing(name: str, places: Sequence[Path], files: str, reason: str) -> DataError:
    """Make the error for a data set that was not found: the places, the cause of the failed download, the remedy.

    Args:
        name: of the data set.
        places: files and folders that were searched.
        files: description of the files to put there.
        reason: the cause of the failed download.
    """
    where = ", ".join(map(str, places))
    mend = f"put {files} there, or name their place with data-dir or $LASER_FL_DATA"
    return DataError(f"{name}: not found in {where} and not downloaded ({reason}); {mend}")
