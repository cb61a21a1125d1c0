"""Paths in the folders that a grant mounts. fs_read and fs_write have the same copy: a handler is trusted by its folder alone."""

import errno
import os

MAX_PATH = 4096  # bytes


class Refused(Exception):
    """What the caller is told."""

    def __init__(self, error_type, error):
        super().__init__(error_type, error)
        self.output = {"success": False, "error": error, "error_type": error_type}


def mounts():
    """The folders, in the grant's order."""
    found = []
    while (place := os.environ.get("RUMI_MOUNT_%d" % len(found))) is not None:
        found.append(place)
    return found


def split(path):
    """The folder that a path lies in, and the names that lead from there. Relative paths lie in the first folder."""
    if not isinstance(path, str) or "\0" in path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise Refused("validation_error", "'path' must be a string without NUL, of at most %d bytes" % MAX_PATH)
    known = mounts()
    if not known:
        raise Refused("not_mounted", "The grant mounts no folder")
    root, rest = known[0], path
    if path.startswith("/"):
        for root in known:
            if path == root or path.startswith(root + "/"):
                rest = path[len(root) + 1:]
                break
        else:
            raise Refused("not_mounted", "The path lies in none of the folders that the grant mounts")
    names = [name for name in rest.split("/") if name not in ("", ".")]
    if ".." in names:
        raise Refused("validation_error", "'path' must not have '..'")
    return root, names


class Folder:
    """An open folder below a mount. Each name is opened from the folder before it and never through a link, so that nobody who
    writes there meanwhile can lead out of it."""

    def __init__(self, root, names=(), make=False):
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                self._enter(name, make)
        except BaseException:
            os.close(self.fd)
            raise

    def _enter(self, name, make):
        if make:
            try:
                os.mkdir(name, 0o770, dir_fd=self.fd)
            except FileExistsError:
                pass
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = below

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def open(self, name, flags, mode=0o660):
        """Opens a name in the folder, which is no link. A FIFO that nobody writes to doesn't hold us up."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=self.fd)


_KINDS = {
    errno.ENOENT: ("not_found", "No such file or folder"),
    errno.EACCES: ("not_permitted", "The file or folder can't be used by handlers"),
    errno.EPERM: ("not_permitted", "The file or folder can't be used by handlers"),
    errno.EROFS: ("read_only", "The folder is mounted read-only"),
    errno.ELOOP: ("not_a_file", "A link is not followed"),
    errno.ENOTDIR: ("not_a_file", "A name on the way is a link or a file"),
    errno.EISDIR: ("not_a_file", "The path is a folder"),
    errno.ENXIO: ("not_a_file", "The path is no regular file"),
    errno.ENAMETOOLONG: ("validation_error", "A name is too long"),
    errno.ENOSPC: ("no_space", "There is no space left"),
    errno.EDQUOT: ("no_space", "There is no space left"),
    errno.EINVAL: ("validation_error", "The name can't be used"),
}


def answer(work, args):
    """Does the work and turns what the system refuses into an answer; anything else is a fault of ours."""
    try:
        return work(args)
    except Refused as refused:
        return refused.output
    except (UnicodeEncodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _KINDS:
            raise
        kind, text = _KINDS[errno.EINVAL if isinstance(error, UnicodeEncodeError) else error.errno]
        return {"success": False, "error": text, "error_type": kind}


def whole(args, name, default, least, most):
    """An integer among the arguments."""
    value = args.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused("validation_error", "'%s' must be an integer from %d to %d" % (name, least, most))
    return value
