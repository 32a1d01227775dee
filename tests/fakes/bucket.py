"""A stand-in for S3, as far as a client that stores, reads, lists and deletes objects has to do with it.

    async with Bucket() as bucket:
        ...                                # AWS_ENDPOINT_URL=bucket.origin, s3://films/…
        assert bucket.objects == {"prefix/key": b"…"}

It has one bucket, `films`, and looks at no signature. An upload of parts is an object once it is completed, in the
order of the numbers of its parts; all of them but the last have 5 MiB at least, or it is refused.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.fakes.replies import head
from tests.fakes.wire import Reply, Request, Send, WireServer

__all__ = ["Bucket"]

NAME = "films"
LEAST_PART_BYTES = 5 << 20
_PIECE = 64 * 1024


class Bucket(WireServer):
    """`modified_at` is when every object was made, in seconds since 1970. `uploads` are those not completed."""

    def __init__(self) -> None:
        super().__init__(default=self.answer)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.modified_at = 1_800_000_000.0
        self._begun = 0

    async def __aenter__(self) -> Bucket:
        await super().__aenter__()
        return self

    def answer(self, request: Request) -> Reply:
        path, _, text = request.path.partition("?")
        bucket, _, key = unquote(path).removeprefix("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
        if bucket != NAME:
            return _refused(404, "NoSuchBucket")
        if "uploadId" in query or "uploads" in query:
            return self._upload(request, key, query)
        match request.method:
            case "GET" if not key:
                return self._list(query.get("prefix", ""))
            case "POST" if "delete" in query:
                return self._delete(request.body)
            case "PUT":
                self.objects[key] = request.body
                return _answered(200, {"etag": _etag(request.body)})
            case "DELETE":
                self.objects.pop(key, None)
                return _answered(204)
            case _:
                return self._object(request, key)

    def _object(self, request: Request, key: str) -> Reply:
        data = self.objects.get(key)
        if data is None:
            return _refused(404, "NoSuchKey")
        first, _, last = (request.header("range") or f"bytes=0-{len(data) - 1}").removeprefix("bytes=").partition("-")
        start, end = int(first), min(len(data), int(last) + 1)
        headers = {
            "etag": _etag(data),
            "last-modified": datetime.fromtimestamp(self.modified_at, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "content-type": "application/octet-stream",
            "content-length": str(end - start),
        }
        if request.header("range") is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{len(data)}"
        status = 200 if request.header("range") is None else 206
        pieces = [] if request.method == "HEAD" else range(start, end, _PIECE)
        return [head(status, headers), *(Send(data[at : min(end, at + _PIECE)]) for at in pieces)]

    def _upload(self, request: Request, key: str, query: dict[str, str]) -> Reply:
        if "uploads" in query:
            self._begun += 1
            name = f"upload-{self._begun}"
            self.uploads[name] = {}
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>")
        name = query["uploadId"]
        if name not in self.uploads:
            return _refused(404, "NoSuchUpload")
        match request.method:
            case "PUT":
                self.uploads[name][int(query["partNumber"])] = request.body
                return _answered(200, {"etag": _etag(request.body)})
            case "DELETE":
                del self.uploads[name]
                return _answered(204)
        parts = [self.uploads[name][number] for number in sorted(self.uploads[name])]
        if any(len(part) < LEAST_PART_BYTES for part in parts[:-1]):
            return _refused(400, "EntityTooSmall")
        del self.uploads[name]
        self.objects[key] = b"".join(parts)
        etag = escape(_etag(self.objects[key]))
        return _xml(f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>")

    def _list(self, prefix: str) -> Reply:
        when = datetime.fromtimestamp(self.modified_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified><ETag>{escape(_etag(data))}</ETag>"
            f"<Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return _xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")

    def _delete(self, body: bytes) -> Reply:
        asked = ElementTree.fromstring(body)
        keys = [element.text or "" for element in asked.iter() if element.tag.endswith("Key")]
        for key in keys:
            self.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return _xml(f"<DeleteResult>{deleted}</DeleteResult>")


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _answered(status: int, headers: dict[str, str] | None = None) -> Reply:
    length = {} if status == 204 else {"content-length": "0"}
    return [head(status, {**length, **(headers or {})})]


def _xml(text: str, status: int = 200) -> Reply:
    body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
    return [head(status, {"content-type": "application/xml", "content-length": str(len(body))}), Send(body)]


def _refused(status: int, code: str) -> Reply:
    return _xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status)
