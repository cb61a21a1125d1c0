"""fs.read: a file's content, or a folder's names, in the folders that the grant mounts.

    {"path", "offset"?, "length"?, "encoding"?: "utf-8" | "base64"}
    -> {"success": true, "type": "file", "content", "encoding", "size", "offset", "next_offset"}     null at the end of the file
    -> {"success": true, "type": "folder", "entries": [{"name", "type", "size"}], "truncated"}
    -> {"success": false, "error", "error_type"}

Without an encoding, text is utf-8 and the rest is base64.
"""

import base64
import codecs
import json
import os
import stat

import folders

MAX_BYTES = 512 * 1024  # of a file at once; base64 makes it 683 KiB of the 1 MiB that an answer has
MAX_TEXT = 900 * 1024  # of JSON
MAX_ENTRIES = 1000


def execute(context, args):
    limit = context["grant_config"].get("max_bytes", MAX_BYTES)
    return folders.answer(lambda args: _read(args, limit), args)


def _read(args, limit):
    encoding = args.get("encoding")
    if encoding not in (None, "utf-8", "base64"):
        raise folders.Refused("validation_error", "'encoding' must be utf-8 or base64")
    offset = folders.whole(args, "offset", 0, 0, 1 << 62)
    length = min(folders.whole(args, "length", limit, 1, 1 << 62), limit)
    root, names = folders.split(args.get("path"))
    if not names:
        with folders.Folder(root) as folder:
            return _list(folder.fd)
    with folders.Folder(root, names[:-1]) as folder:
        fd = folder.open(names[-1], os.O_RDONLY)
    try:
        kind = os.fstat(fd)
        if stat.S_ISDIR(kind.st_mode):
            return _list(fd)
        if not stat.S_ISREG(kind.st_mode):
            raise folders.Refused("not_a_file", "The path is no regular file")
        return _content(fd, kind.st_size, offset, length, encoding)
    finally:
        os.close(fd)


def _content(fd, size, offset, length, encoding):
    data = bytearray()
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    end = offset + len(data) >= size
    text = None
    if encoding != "base64":
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(bytes(data), final=end)
        except UnicodeDecodeError:
            pass
        # A character that the length cuts is left for the next call; control characters take six bytes of JSON each.
        if text is not None and (not text and data or len(json.dumps(text, ensure_ascii=False).encode()) > MAX_TEXT):
            text = None
        if text is None and encoding == "utf-8":
            raise folders.Refused("not_text", "The content is no UTF-8 text, or too long as JSON")
    used = len(data) if text is None else len(text.encode())
    return {
        "success": True, "type": "file", "size": size, "offset": offset,
        "content": base64.b64encode(data).decode() if text is None else text,
        "encoding": "base64" if text is None else "utf-8",
        "next_offset": None if end else offset + used,
    }


def _list(fd):
    entries = []
    with os.scandir(fd) as found:
        for entry in found:
            if len(entries) == MAX_ENTRIES:
                return {"success": True, "type": "folder", "entries": _sorted(entries), "truncated": True}
            entries.append(_entry(entry))
    return {"success": True, "type": "folder", "entries": _sorted(entries), "truncated": False}


def _entry(entry):
    kind, size = "other", None
    try:
        if entry.is_symlink():
            kind = "link"
        elif entry.is_dir(follow_symlinks=False):
            kind = "folder"
        elif entry.is_file(follow_symlinks=False):
            kind, size = "file", entry.stat(follow_symlinks=False).st_size
    except OSError:  # it is gone
        pass
    # Names are bytes; those that are no UTF-8 can't be asked for.
    return {"name": os.fsencode(entry.name).decode("utf-8", "replace"), "type": kind, "size": size}


def _sorted(entries):
    return sorted(entries, key=lambda entry: entry["name"])
