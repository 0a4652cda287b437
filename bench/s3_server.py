"""An S3 server for measurements: s3_server.py PORT BUCKET MIN MAX. What is asked takes MIN to MAX milliseconds, at random, and takes
effect somewhere within that time.

The one of the tests (moto) takes some milliseconds of processor for each request and one request at a time, so that where
many come at once its answers take a multiple of what they are to take. This one knows no more of S3 than Ottla asks for: one
bucket, in memory; conditional creates, ranges, listings, batches of deletions, uploads of parts. It looks at no signature.
"""

import asyncio
import email.utils
import hashlib
import random
import sys
import time
import urllib.parse
import xml.etree.ElementTree as xml
from xml.sax.saxutils import escape

BODY_MAX = 1 << 30


class Object:
    def __init__(self, body):
        self.body, self.etag = body, f'"{hashlib.md5(body).hexdigest()}"'
        self.modified = time.time()


class Bucket:
    def __init__(self, name):
        self.name, self.objects, self.uploads = name, {}, {}

    def answer(self, method, target, headers, body):
        """Status, headers, body."""
        path, _, query = target.partition("?")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
        if bucket != self.name:
            return failure(404, "NoSuchBucket")
        if not key:
            if method == "POST" and "delete" in asked:
                return self.delete_many(body)
            return self.list(asked) if method == "GET" else (200, {}, b"")
        if method in ("GET", "HEAD"):
            return self.get(key, headers)
        if method == "PUT" and "uploadId" in asked:
            self.uploads[asked["uploadId"]][int(asked["partNumber"])] = body
            return 200, {"ETag": Object(body).etag}, b""
        if method == "PUT":
            return self.put(key, headers, body)
        if method == "POST" and "uploads" in asked:
            upload = f"upload-{random.getrandbits(64)}"
            self.uploads[upload] = {}
            named = f"<Bucket>{self.name}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            return page("InitiateMultipartUploadResult", named)
        if method == "POST" and "uploadId" in asked:
            parts = self.uploads.pop(asked["uploadId"])
            status, answered, content = self.put(key, headers, b"".join(parts[number] for number in sorted(parts)))
            if status != 200:
                return status, answered, content
            return page("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key><ETag>{answered['ETag']}</ETag>")
        if method == "DELETE":
            self.uploads.pop(asked.get("uploadId"), None) if "uploadId" in asked else self.objects.pop(key, None)
            return 204, {}, b""
        return failure(501, "NotImplemented")

    def put(self, key, headers, body):
        if headers.get("if-none-match") == "*" and key in self.objects:
            return failure(412, "PreconditionFailed")
        self.objects[key] = Object(body)
        return 200, {"ETag": self.objects[key].etag}, b""

    def get(self, key, headers):
        found = self.objects.get(key)
        if found is None:
            return failure(404, "NoSuchKey")
        size = len(found.body)
        about = {"ETag": found.etag, "Last-Modified": email.utils.formatdate(found.modified, usegmt=True)}
        asked = headers.get("range")
        if asked is None:
            return 200, about, found.body
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if begin >= end:
            return failure(416, "InvalidRange")
        return 206, {**about, "Content-Range": f"bytes {begin}-{end - 1}/{size}"}, found.body[begin:end]

    def delete_many(self, body):
        keys = [element.text for element in xml.fromstring(body).iter() if element.tag.endswith("Key")]
        for key in keys:
            self.objects.pop(key, None)
        return page("DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys))

    def list(self, asked):
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = asked.get("continuation-token") or asked.get("start-after", "")
        limit = int(asked.get("max-keys", 1000))
        rows, folders, last = [], [], ""
        more = False
        for key in sorted(key for key in self.objects if key.startswith(prefix) and key > after):
            folder = delimiter and delimiter in key[len(prefix) :]
            name = prefix + key[len(prefix) :].split(delimiter)[0] + delimiter if folder else key
            if folder and (name in folders or after.startswith(name)):
                last = key
                continue
            if len(rows) + len(folders) == limit:
                more = True
                break
            (folders if folder else rows).append(name)
            last = key

        def row(key):
            found = self.objects[key]
            modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.modified))
            about = f"<Key>{escape(key)}</Key><LastModified>{modified}</LastModified><ETag>{escape(found.etag)}</ETag>"
            return f"<Contents>{about}<Size>{len(found.body)}</Size></Contents>"

        content = f"<Name>{self.name}</Name><KeyCount>{len(rows) + len(folders)}</KeyCount>"
        content += f"<IsTruncated>{str(more).lower()}</IsTruncated>" + "".join(map(row, rows))
        content += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        if more:
            content += f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"
        return page("ListBucketResult", content)


def page(name, content):
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return 200, {"Content-Type": "application/xml"}, f"<{name} {space}>{content}</{name}>".encode()


def failure(status, code):
    content = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return status, {"Content-Type": "application/xml"}, content.encode()


async def serve(bucket, least, most, reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            length = int(headers.get("content-length", 0))
            if length > BODY_MAX:
                return
            body = await reader.readexactly(length)
            delay, before = random.uniform(least, most) / 1000, random.random()
            await asyncio.sleep(delay * before)
            status, about, content = bucket.answer(method, target, headers, body)
            await asyncio.sleep(delay * (1 - before))
            about = {**about, "Content-Length": len(content), "x-amz-request-id": "0"}
            lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in about.items())]
            if status == 204:
                lines.pop(-2)
            writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else content))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    port, name, least, most = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    bucket = Bucket(name)
    server = await asyncio.start_server(
        lambda reader, writer: serve(bucket, least, most, reader, writer), "127.0.0.1", port, limit=1 << 20, backlog=1024
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
