#!/usr/bin/env python3
"""Makes the archives beside it: what programs that pack for people write, byte for byte where the program is here (zip), else built by
its layout. Usage: make.py. The tests read the archives as they are committed."""
import binascii, io, os, struct, subprocess, tempfile, unicodedata, zipfile, zlib

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = {"p/ecosystem.json": b'{"pack_id": "p", "pack_identity": "github:a/p"}\n', "p/main.py": b"print('hello')\n" * 40, "p/run.sh": b"#!/bin/sh\n"}


class Unseekable(io.RawIOBase):
    def __init__(self, to): self.to = to
    def writable(self): return True
    def write(self, b): return self.to.write(b)


def save(name, data):
    with open(os.path.join(HERE, name + ".zip"), "wb") as f:
        f.write(data)


def infozip(name, *options, stream=False):
    with tempfile.TemporaryDirectory() as d:
        for path, content in FILES.items():
            os.makedirs(os.path.join(d, os.path.dirname(path)), exist_ok=True)
            with open(os.path.join(d, path), "wb") as f:
                f.write(content)
        if stream:
            data = subprocess.run(["zip", "-qr", *options, "-", "p"], cwd=d, stdout=subprocess.PIPE, check=True).stdout
        else:
            subprocess.run(["zip", "-qr", *options, "x.zip", "p"], cwd=d, check=True)
            data = open(os.path.join(d, "x.zip"), "rb").read()
    save(name, data)


def entry(raw, content, *, flags=8, local=("0", "0", "0"), wide_descriptor=False, signature=True, local_zip64=False, central_zip64=(), extra=b"", deflate=True, mode=0o100644):
    """One entry as (local part, function of its offset to its central part). local says of crc, packed and size: 0, known, or ff."""
    crc = binascii.crc32(content)
    c = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = c.compress(content) + c.flush() if deflate and content else content
    method = 8 if deflate and content else 0
    if raw.endswith(b"/"):
        flags &= ~8
        mode = 0o040755
    value = lambda how, n: {"0": 0, "known": n, "ff": 0xFFFFFFFF}[how]
    lextra = extra
    if local_zip64:
        lextra += struct.pack("<HHQQ", 1, 16, 0, 0)
    head = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, flags, method, 0, 0x5A21, value(local[0], crc), value(local[1], len(packed)), value(local[2], len(content)), len(raw), len(lextra))
    tail = b""
    if flags & 8:
        tail = struct.pack("<IQQ" if wide_descriptor else "<III", crc, len(packed), len(content))
        tail = (b"PK\7\x08" if signature else b"") + tail
    def central(offset):
        numbers = {"size": len(content), "packed": len(packed), "offset": offset}
        field = b"".join(struct.pack("<Q", numbers[n]) for n in ("size", "packed", "offset") if n in central_zip64)
        if "disk" in central_zip64:
            field += struct.pack("<I", 0)
        cextra = extra + (struct.pack("<HH", 1, len(field)) + field if central_zip64 else b"")
        show = lambda n: 0xFFFFFFFF if n in central_zip64 else numbers[n]
        return struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 3 << 8 | 45, 45, flags, method, 0, 0x5A21, crc, show("packed"), show("size"), len(raw), len(cextra), 0,
                           0xFFFF if "disk" in central_zip64 else 0, 0, mode << 16, show("offset")) + raw + cextra
    return head + raw + lextra + packed + tail, central


def archive(entries, zip64=None, comment=b""):
    """zip64: None, "known" for an end record that knows its numbers, "unknown" for one that leaves them to ZIP64, "all" for its parts, too."""
    out, directory = b"", b""
    for local, central in entries:
        directory += central(len(out))
        out += local
    start, n = len(out), len(entries)
    out += directory
    if zip64:
        out += struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, n, n, len(directory), start) + struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    count, length, offset, disk = n, len(directory), start, 0
    if zip64 in ("unknown", "all"):
        count, length, offset = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    if zip64 == "all":
        disk = 0xFFFF
    return out + struct.pack("<4sHHHHIIH", b"PK\5\6", disk, disk, count, count, length, offset, len(comment)) + comment


def built(name, zip64=None, **options):
    save(name, archive([entry(k.encode(), v, **options) for k, v in FILES.items()], zip64))


def unicode_path(raw, name):
    return struct.pack("<HHBI", 0x7075, 5 + len(name), 1, binascii.crc32(raw)) + name


infozip("zip-to-a-pipe", stream=True)
infozip("zip-to-a-pipe-stored", "-0", stream=True)
infozip("zip-fz", "-fz")
infozip("zip-fd", "-fd")
built("streamed-size-known", local=("0", "0", "known"))
built("streamed-crc-known", local=("known", "0", "0"))
built("streamed-no-signature", signature=False)
built("streamed-wide-descriptor", wide_descriptor=True)
built("streamed-wide-descriptor-no-signature", wide_descriptor=True, signature=False)
built("streamed-zip64-field-narrow-descriptor", local=("0", "ff", "ff"), local_zip64=True)
built("streamed-zip64-field", local=("0", "ff", "ff"), local_zip64=True, wide_descriptor=True)
built("zip64-end-known", zip64="known", flags=0, local=("known",) * 3)
built("zip64-end-unknown", zip64="unknown", flags=0, local=("known",) * 3)
built("zip64-end-all", zip64="all", flags=0, local=("known",) * 3)
built("zip64-forced", zip64="all", wide_descriptor=True, central_zip64=("size", "packed", "offset"))
built("zip64-forced-disk", zip64="all", wide_descriptor=True, central_zip64=("size", "packed", "offset", "disk"))
built("zip64-offset-only", zip64="unknown", central_zip64=("offset",))

nfd = lambda s: unicodedata.normalize("NFD", s).encode()
double = b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(60)
mac = [(b"p/", b"")] + [(nfd(k), v) for k, v in FILES.items()] + [(nfd("p/がく.txt"), b"x"), (b"__MACOSX/", b""), (b"__MACOSX/._p", double), (b"__MACOSX/p/", b""), (b"__MACOSX/p/._main.py", double), (b"p/.DS_Store", b"\0\0\0\1Bud1")]
save("finder", archive([entry(k, v) for k, v in mac]))
save("finder-two-chosen", archive([entry(k, v) for k, v in mac[1:]] + [entry(b".DS_Store", b"\0\0\0\1Bud1")]))

win = [("p/ecosystem.json", FILES["p/ecosystem.json"]), ("p/表示設定.txt", b"x"), ("p/日本語/能.py", b"y")]
save("explorer-cp932", archive([entry(k.encode("cp932"), v, flags=0, local=("known",) * 3) for k, v in win]))
save("infozip-windows-cp932", archive([entry(k.encode("cp932"), v, flags=0, local=("known",) * 3, extra=unicode_path(k.encode("cp932"), k.encode())) for k, v in win]))
save("7zip-cp437", archive([entry(k.encode("cp437"), v, flags=0, local=("known",) * 3, extra=unicode_path(k.encode("cp437"), k.encode())) for k, v in
                            [("p/ecosystem.json", FILES["p/ecosystem.json"]), ("p/größe.txt", b"x")]]))
