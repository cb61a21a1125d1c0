"""Out of the read-only file system, and into the host's."""

import os
import stat


def write(folder):
    path = os.path.join(folder, "escaped")
    with open(path, "w", encoding="ascii") as file:
        file.write("escaped")
    return "wrote " + path


def overwrite(path):
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")
    return "wrote " + path


def read(path):
    with open(path, "rb") as file:
        return "read %d bytes of %s" % (len(file.read(64)), path)


def device(path, kind, major, minor):
    """A device of its own making, read: its host's disk or memory."""
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    return read(path)


def host_files():
    """What lies on a machine that runs the suite and never in an image."""
    for path in ("/rumi", "/host", "/mnt/host", "/var/lib/docker", "/data/../../user_data", "/pack/../../ecosystem", "/proc/1/root/rumi"):
        if os.path.exists(path):
            return "sees " + path
    return None


def disks():
    found = [name for name in os.listdir("/dev") if stat.S_ISBLK(os.stat(os.path.join("/dev", name)).st_mode)]
    return "block devices %s" % found if found else None


def link_out():
    """A link in /data is followed here, not outside: it shows this container's file system only."""
    link = "/data/escape"
    try:
        os.symlink("/proc/1/root/rumi/user_data", link)
        return "sees %s" % os.listdir(link)
    finally:
        if os.path.islink(link):
            os.unlink(link)


def run_from(folder):
    path = os.path.join(folder, "program")
    with open(path, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod(path, 0o755)
    try:
        if os.spawnv(os.P_WAIT, path, [path]) == 0:
            return "ran " + path
        raise PermissionError("could not run " + path)
    finally:
        os.unlink(path)


def attempts():
    for name, folder in (("root", "/"), ("etc", "/etc"), ("usr", "/usr/local/bin"), ("pack", "/pack"), ("code", "/pack/backend"),
                         ("libraries", "/usr/local/lib/rumi/lib"), ("site_packages", "/site-packages"), ("home", "/root"),
                         ("egress_folder", "/run/rumi/egress"), ("capability_folder", "/run/rumi/capability"), ("sys", "/sys/fs/cgroup")):
        yield "write_" + name, lambda folder=folder: write(folder)
    yield "change_own_code", lambda: overwrite("/pack/backend/main.py")
    yield "change_runtime", lambda: overwrite("/usr/local/bin/rumi-runtime")
    yield "change_core_pattern", lambda: overwrite("/proc/sys/kernel/core_pattern")
    yield "sysrq", lambda: overwrite("/proc/sysrq-trigger")
    yield "cgroup_release_agent", lambda: overwrite("/sys/fs/cgroup/memory/release_agent")
    yield "uevent_helper", lambda: overwrite("/sys/kernel/uevent_helper")
    for name in ("kcore", "kallsyms_of_host", "timer_list", "keys"):
        yield "read_" + name, lambda name=name: masked(name)
    yield "read_shadow", lambda: read("/etc/shadow")
    yield "read_pid1_environ", lambda: read("/proc/1/environ")
    yield "read_pid1_memory", lambda: read("/proc/1/mem")
    yield "host_files", host_files
    yield "disks", disks
    yield "make_disk", lambda: device("/tmp/disk", stat.S_IFBLK, 8, 0)
    yield "make_memory", lambda: device("/tmp/mem", stat.S_IFCHR, 1, 1)
    yield "link_out_of_data", link_out
    yield "run_from_tmp", lambda: run_from("/tmp")
    yield "run_from_shm", lambda: run_from("/dev/shm")


def masked(name):
    """Files of /proc that Docker covers with nothing; addresses in kallsyms are zero for who may not see them."""
    if name == "kallsyms_of_host":
        with open("/proc/kallsyms", encoding="ascii") as table:
            return None if table.readline().startswith("0000000000000000") else "kernel addresses"
    with open("/proc/" + name, "rb") as file:
        found = file.read(64)
    return "read %d bytes of /proc/%s" % (len(found), name) if found else None
