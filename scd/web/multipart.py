"""A multipart body as a stream of parts, never whole in memory."""

from collections.abc import AsyncIterator

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import BadRequest

_MAX_HEADERS = 16 * 1024


class PartBegin(msgspec.Struct, frozen=True):
    name: str


class PartEnd(msgspec.Struct, frozen=True):
    pass


Event = PartBegin | PartEnd | bytes


async def events(content_type: str | None, stream: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """``PartBegin(name)``, the part's data, ``PartEnd()``, for each part. Raises BadRequest."""
    collector = _Collector(_boundary(content_type))
    async for chunk in stream:
        for event in collector.feed(chunk):
            yield event
    if not collector.complete:
        raise BadRequest("The multipart body ends too early.")


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BadRequest("remote_run takes multipart/form-data with the parts params and import.")
    return boundary


class _Collector:
    """The parser's callbacks, turned into a list of events for each piece fed."""

    def __init__(self, boundary: bytes):
        self.complete = False
        self._found: list[Event] = []
        self._field = b""
        self._value = b""
        self._header_bytes = 0
        self._disposition: bytes | None = None
        try:
            self._parser = MultipartParser(boundary, {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            })  # fmt: skip
        except FormParserError as error:
            raise BadRequest(f"The multipart body is damaged: {error}.") from None

    def feed(self, chunk: bytes) -> list[Event]:
        self._found = []
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadRequest(f"The multipart body is damaged: {error}.") from None
        return self._found

    def _on_part_begin(self) -> None:
        self._header_bytes, self._disposition = 0, None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += self._counted(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data[start:end])

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._found.append(PartBegin(options.get(b"name", b"").decode(errors="replace")))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._found.append(data[start:end])

    def _on_part_end(self) -> None:
        self._found.append(PartEnd())

    def _on_end(self) -> None:
        self.complete = True

    def _counted(self, data: bytes) -> bytes:
        self._header_bytes += len(data)
        if self._header_bytes > _MAX_HEADERS:
            raise BadRequest("A part of the multipart body has too long headers.")
        return data
