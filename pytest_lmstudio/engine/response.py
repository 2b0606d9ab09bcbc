"""An answer on its way in: status and headers are there, the body is read with distrust."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from pytest_lmstudio.engine import plain
from pytest_lmstudio.engine.failure import Failure, Refused
from pytest_lmstudio.errors import ErrorKind
from pytest_lmstudio.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

#: An answer above this is cut off: no eval needs it, and it would fill memory, log and cache.
MOST_ANSWER_BYTES = 32 * 2**20
_OK = 200
_ENCODINGS = {"gzip", "x-gzip", "deflate"}
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_UNPACKED_BYTES = 65_536


class Broken(Exception):
    """A connection that could not be made, or that broke.

    Attributes:
        unmade: whether it was never made.
    """

    def __init__(self, error: Exception, *, unmade: bool) -> None:
        self.unmade = unmade
        super().__init__(f"no connection: {error}" if unmade else f"{type(error).__name__}: {error}")


class Response:
    """An answer whose body is still to be read.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._close = close

    @property
    def ok(self) -> bool:
        """Tell whether the status is 200."""
        return self.status == _OK

    @property
    def is_stream(self) -> bool:
        """Tell whether the body is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body, unpacked, up to the limit.

        Raises:
            Broken: the connection broke.
            Refused: the body is too large, or cannot be unpacked.
        """
        size = 0
        encoding = self.headers.get("content-encoding", "identity").strip().lower() or "identity"
        try:
            async for chunk in self._body if encoding == "identity" else self._unpacked(encoding):
                size += len(chunk)
                if size > MOST_ANSWER_BYTES:
                    msg = f"the answer is larger than {MOST_ANSWER_BYTES // 2**20} MiB"
                    raise self._refused(msg)
                yield chunk
        except zlib.error as error:
            msg = f"the answer cannot be decoded: {error}"
            raise self._refused(msg) from None
        except plain.ERRORS as error:
            raise Broken(error, unmade=False) from None

    async def close(self) -> None:
        """Give the connection back, or up when the body was not read to its end."""
        await self._close()

    async def _unpacked(self, encoding: str) -> AsyncIterator[bytes]:
        """Undo the content encoding, a little at a time: a few kilobytes can unpack to gigabytes."""
        if encoding not in _ENCODINGS:
            msg = f"the answer cannot be decoded: nobody asked for the encoding {printable(encoding, limit=40)}"
            raise self._refused(msg)
        unpacker = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        async for chunk in self._body:
            packed = chunk
            while packed and not unpacker.eof:  # what follows the end would be collected
                yield unpacker.decompress(packed, _UNPACKED_BYTES)
                packed = unpacker.unconsumed_tail

    def _refused(self, message: str) -> Refused:
        return Refused(Failure(ErrorKind.INVALID_RESPONSE, message, status=self.status))
