"""Reading of parts of files and image stacks on a server, by HTTP Range requests."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from urllib.parse import quote

import requests

from hetacumn.common.errors import HetacumnError
from hetacumn.io.stacks import HEADER_BYTES, Layout


@dataclass(frozen=True)
class Patience:
    """Time limits and retries of a connection.

    - ``timeout``: longest wait for a response, in seconds.
    - ``tries``: number of failed tries in a row after which reading fails; received data restart the count.
    - ``pause``: wait before the second try, in seconds; the wait doubles before each further try.
    """

    timeout: float = 30.0
    tries: int = 6
    pause: float = 1.0


PATIENT = Patience()


class TemporaryFailure(Exception):
    """A temporary failure, after which the request is tried again."""


class Remote:
    """A folder on a server, from whose files this class reads byte ranges."""

    def __init__(self, base_url: str, patience: Patience = PATIENT) -> None:
        self.base_url, self.patience, self.session = base_url.rstrip("/"), patience, requests.Session()

    def url(self, path: str) -> str:
        """Return the address of a file."""
        return f"{self.base_url}/{quote(path)}"

    def read(self, path: str, start: int, stop: int, at_end: bool = False) -> tuple[bytes, int]:
        """Read the bytes from ``start`` to before ``stop`` of a file; return these bytes and the length of the file.

        If ``at_end`` is true, the file may end before ``stop``, and the result is then shorter. After a broken or stalled
        connection, reading continues from the last byte received.

        Raises:
            HetacumnError: the server does not support ranges, the file is missing or too short, or every try failed.
        """
        got, failures = bytearray(), 0
        total: int | None = None
        while total is None or start + len(got) < stop:
            before = len(got)
            try:
                total = self._receive(path, start, stop, got, at_end)
                if at_end:
                    stop = min(stop, total)
            except TemporaryFailure as failure:
                failures = 1 if len(got) > before else failures + 1  # received data restart the count
                if failures >= self.patience.tries:
                    raise HetacumnError(
                        f"{self.url(path)}: bytes {start + len(got)} to {stop}: {failure}; tried "
                        f"{failures} times; run it again later; downloaded data are kept"
                    ) from None
                time.sleep(self.patience.pause * 2 ** (failures - 1))
        return bytes(got), total

    def _receive(self, path: str, start: int, stop: int, got: bytearray, at_end: bool) -> int:
        """Request the missing bytes once and append them to ``got``; return the length of the file."""
        url, first = self.url(path), start + len(got)
        headers = {"Range": f"bytes={first}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with self.session.get(url, headers=headers, stream=True, timeout=self.patience.timeout) as answer:
                self._check_status(answer, url)
                sent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
                if not sent or int(sent[1]) != first:
                    raise HetacumnError(
                        f"{url}: Content-Range is '{answer.headers.get('Content-Range')}'; expected bytes "
                        f"{first}-{stop - 1} of the file"
                    )
                total = int(sent[3])
                if total < stop and not at_end:
                    raise HetacumnError(f"{url}: {total} bytes long; expected at least {stop}")
                answer.raw.enforce_content_length = False  # keep an incomplete response; the length is checked below
                for piece in answer.iter_content(2**16):
                    got += piece[: stop - start - len(got)]
        except requests.RequestException as error:
            raise TemporaryFailure(f"{type(error).__name__}") from None
        if start + len(got) < min(stop, total):
            raise TemporaryFailure("the connection ended too soon")
        return total

    @staticmethod
    def _check_status(answer: requests.Response, url: str) -> None:
        if answer.status_code == 206:
            return
        if answer.status_code == 200:
            raise HetacumnError(f"{url}: the server sends the whole file; expected it to serve ranges (status 206)")
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise TemporaryFailure(f"status {answer.status_code}")
        raise HetacumnError(f"{url}: status {answer.status_code}; expected 206")


@dataclass(frozen=True)
class RemoteStack:
    """A stack on the server: its path, and the layout from its header."""

    path: str
    layout: Layout

    @classmethod
    def open(cls, remote: Remote, path: str) -> RemoteStack:
        """Read the header of a stack. Raises :class:`HetacumnError` if the header is invalid or the file too short for it."""
        raw, total = remote.read(path, 0, HEADER_BYTES)
        layout = Layout.parse(raw, remote.url(path))
        if total < layout.end:
            raise HetacumnError(
                f"{remote.url(path)}: {total} bytes long; expected {layout.end}, {layout.shape[0]} images as its header says"
            )
        return cls(path, layout)
