"""fs.write: writes a file in the folders that the grant mounts with read_only false.

    {"path", "content", "encoding"?: "utf-8" | "base64", "mode"?: "replace" | "create" | "append", "make_folders"?}
    -> {"success": true, "bytes"}
    -> {"success": false, "error", "error_type"}

A file is replaced whole: who reads it meanwhile sees the old one or the new one. "create" refuses one that is there.
"""

import base64
import binascii
import os
import secrets
import stat

import folders

MAX_BYTES = 2 * 1024 * 1024


def execute(context, args):
    limit = context["grant_config"].get("max_bytes", MAX_BYTES)
    return folders.answer(lambda args: _write(args, limit), args)


def _write(args, limit):
    data = _data(args)
    if len(data) > limit:
        raise folders.Refused("payload_too_large", "Content too large (max %d bytes)" % limit)
    mode, make = args.get("mode", "replace"), args.get("make_folders", False)
    if mode not in ("replace", "create", "append") or not isinstance(make, bool):
        raise folders.Refused("validation_error", "'mode' must be replace, create or append, 'make_folders' a boolean")
    root, names = folders.split(args.get("path"))
    if not names or args["path"].endswith("/"):
        raise folders.Refused("not_a_file", "The path is a folder")
    with folders.Folder(root, names[:-1], make) as folder:
        if mode == "append":
            _append(folder, names[-1], data)
        else:
            _put(folder, names[-1], data, mode == "create")
    return {"success": True, "bytes": len(data)}


def _data(args):
    content, encoding = args.get("content"), args.get("encoding", "utf-8")
    if not isinstance(content, str) or encoding not in ("utf-8", "base64"):
        raise folders.Refused("validation_error", "'content' must be a string, 'encoding' utf-8 or base64")
    try:
        return content.encode() if encoding == "utf-8" else base64.b64decode(content, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise folders.Refused("validation_error", "'content' is not in its encoding") from error


def _append(folder, name, data):
    fd = folder.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise folders.Refused("not_a_file", "The path is no regular file")
        _all(fd, data)
    finally:
        os.close(fd)


def _put(folder, name, data, create):
    temporary = ".rumi-" + secrets.token_hex(8)
    fd = folder.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            _all(fd, data)
        finally:
            os.close(fd)
        if create:
            try:
                os.link(temporary, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd, follow_symlinks=False)
            except FileExistsError as error:
                raise folders.Refused("exists", "There is such a file already") from error
        else:
            os.rename(temporary, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            temporary = None
    finally:
        if temporary:
            os.unlink(temporary, dir_fd=folder.fd)


def _all(fd, data):
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest):]
    os.fsync(fd)
