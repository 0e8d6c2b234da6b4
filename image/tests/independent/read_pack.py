"""A reader of packs that knows nothing but docs/pack-format.md: writes a disk image, or the files of a tree, to a directory.

usage: read_pack.py PACK IMAGE OUTPUT

Python's standard library and the zstd program; hashes are not checked, since neither has BLAKE3.
"""

import os
import struct
import subprocess
import sys

PAGE = 4096


def lz4_block(data, size):
    """Decodes one block of the LZ4 block format."""
    out, at = bytearray(), 0

    def length(nibble):
        nonlocal at
        total = nibble
        while nibble == 15:
            total += data[at]
            at += 1
            if data[at - 1] != 255:
                break
        return total

    while at < len(data):
        token = data[at]
        at += 1
        literals = length(token >> 4)
        out += data[at:at + literals]
        at += literals
        if at == len(data):
            break
        distance = data[at] | data[at + 1] << 8
        at += 2
        for _ in range(length(token & 15) + 4):
            out.append(out[-distance])
    assert len(out) == size
    return bytes(out)


def decode(codec, stored, raw_bytes):
    if codec == 1:
        return lz4_block(stored, raw_bytes)
    if codec == 2:
        stored = subprocess.run(["zstd", "-dc"], input=stored, stdout=subprocess.PIPE, check=True).stdout
    assert len(stored) == raw_bytes
    return stored


class Body:
    """The primitive values of a manifest."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, count):
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count:self.at]

    def byte(self):
        return self.bytes(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def zigzag(self):
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def string(self):
        return self.bytes(self.varint())


class Pack:
    def __init__(self, path):
        self.data = data = open(path, "rb").read()
        magic, version, page, self.chunk_pages, chunks, segments, images = struct.unpack_from("<8s6I", data)
        assert (magic, version, page) == (b"DISCUSPK", 1, PAGE)
        directory, directory_bytes, signature_bytes = struct.unpack_from("<3Q", data, len(data) - 64)
        assert data[-8:] == b"DISCUSND" and directory + directory_bytes + signature_bytes + 64 == len(data)
        sections = []
        for entry in range(directory, directory + directory_bytes, 64):
            kind, codec, number, offset, stored, raw = struct.unpack_from("<2HI3Q", data, entry)
            sections.append(decode(codec, data[offset:offset + stored], raw))
        assert len(sections) == 3 + images
        self.table = [struct.unpack_from("<Q3IB", sections[0], at) for at in range(0, 56 * chunks, 56)]
        assert len(sections[1]) == segments * (12 + (images + 7) // 8)
        self.manifests = [Manifest(self, section) for section in sections[3:]]

    def chunk(self, number):
        offset, stored, raw, _, codec = self.table[number]
        return decode(codec, self.data[offset:offset + stored], raw)


class Manifest:
    def __init__(self, pack, section):
        self.pack = pack
        magic, version, codec, reserved, raw = struct.unpack_from("<4sHBBQ", section)
        assert magic == b"DCMF" and version in (1, 2) and reserved == 0
        self.body = body = Body(decode(codec, section[16:], raw))
        self.name, self.kind = body.string().decode(), body.byte()
        assert body.varint() == pack.chunk_pages
        count, self.chunks, following = body.varint(), [], 0
        for _ in range(count):
            self.chunks.append(following + body.varint())
            following = self.chunks[-1] + 1
        raw_pages = [body.varint() for _ in range(count)]
        assert raw_pages == [pack.table[chunk][2] // PAGE for chunk in self.chunks]
        for _ in range(count):
            body.varint()
        codecs = [body.byte() for _ in range(count)]
        body.bytes(32 * count)
        if version == 2:
            body.bytes(32 * sum(codec != 0 for codec in codecs))
        self.expected, self.decoded = 0, {}

    def content(self):
        """The bytes of a disk or file, from its size on."""
        size, out = self.body.varint(), bytearray()
        for _ in range(self.body.varint()):
            head = self.body.varint()
            length = head >> 3 if head & 4 else (head >> 3) * PAGE
            if head & 3:
                out += bytes(length)
                continue
            first = self.expected + self.body.zigzag()
            self.expected = first + (length + PAGE - 1) // PAGE
            index, page = divmod(first, self.pack.chunk_pages)
            if index not in self.decoded:
                self.decoded[index] = self.pack.chunk(self.chunks[index])
            out += self.decoded[index][page * PAGE:page * PAGE + length]
        assert len(out) == size
        return out

    def tree(self, output):
        paths, body = [], self.body
        for number in range(body.varint()):
            kind, name = body.byte(), body.string()
            parent = number - body.varint()
            path = os.path.join(paths[parent], name) if number else os.fsencode(output)
            paths.append(path)
            if kind == 3:
                os.link(paths[number - body.varint()], path)
                continue
            for _ in range(3):
                body.varint()
            body.zigzag()
            body.varint()
            for _ in range(body.varint()):
                body.string(), body.string()
            if kind == 0:
                os.mkdir(path)
            elif kind == 1:
                open(path, "wb").write(self.content())
            elif kind == 2:
                os.symlink(body.string(), path)
            elif kind in (4, 5):
                body.varint(), body.varint()


def main():
    _, path, image, output = sys.argv
    manifest = next(manifest for manifest in Pack(path).manifests if manifest.name == image)
    if manifest.kind == 0:
        open(output, "wb").write(manifest.content())
    else:
        manifest.tree(output)
    assert manifest.body.at == len(manifest.body.data)


main()
