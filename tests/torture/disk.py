"""What a machine that stops leaves of an LMDB file: each page as it was at some moment.

Whatever was written since the disk was last waited for may have got there or not, page by page and
in any order.  What was there before that is.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from tidemark.online.stores.checkpoint import CHECKPOINT, DATA

PAGE = 4_096


class Disk:
    """The file's contents since its last checkpoint, as far as anyone looked."""

    def __init__(self, folder: Path) -> None:
        self._data, self._checkpoint = folder / DATA, folder / CHECKPOINT
        self._held = b""
        self._images: list[bytes] = []

    def look(self) -> None:
        """Keep the content, unless a checkpoint is made meanwhile, before which it may be of."""
        if not self._data.exists() or not self._checkpoint.exists():
            return
        held = self._checkpoint.read_bytes()
        image = self._data.read_bytes()
        if held != self._checkpoint.read_bytes():
            return
        if held != self._held:
            self._held, self._images = held, []
        if not self._images or image != self._images[-1]:
            self._images.append(image)

    @property
    def is_open(self) -> bool:
        """Whether there is something of which nobody knows whether it is on the disk."""
        return len(self._images) > 1

    def stop(self, chance: Random) -> int:
        """Mix the pages, once nobody is left who writes; gives how many could be this or that."""
        self.look()
        images, self._images = self._images, []
        newest = images[-1]
        weight = chance.random()  # of the newest content of a page
        pages: list[bytes] = []
        open_ones = 0
        for place in range(0, max(map(len, images)), PAGE):
            # A page behind the end that the file had may have a place by now, and no content.
            held = (image[place : place + PAGE] or bytes(PAGE) for image in images)
            contents = list(dict.fromkeys(held))
            open_ones += len(contents) > 1
            last = newest[place : place + PAGE]
            pages.append(last if last and chance.random() < weight else chance.choice(contents))
        length = chance.choice([len(image) for image in images])
        self._data.write_bytes(b"".join(pages)[:length])
        return open_ones
