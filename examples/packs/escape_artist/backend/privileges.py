"""To rights it was not given."""

import ctypes
import os
import platform
import resource
import shutil
import subprocess
import time

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
PTRACE_SEIZE = 0x4206
# Where glibc has no function; the numbers differ between machines.
SYSCALLS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298, "add_key": 248, "keyctl": 250, "init_module": 175, "kexec_load": 246,
               "open_by_handle_at": 304, "userfaultfd": 323, "io_uring_setup": 425, "pivot_root": 155},
    "aarch64": {"bpf": 280, "perf_event_open": 241, "add_key": 217, "keyctl": 219, "init_module": 105, "kexec_load": 104,
                "open_by_handle_at": 265, "userfaultfd": 282, "io_uring_setup": 425, "pivot_root": 41},
}


def worked(result, what):
    """What a call of the C library got; its errno where it failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return what


def syscall(name):
    """Refused with EPERM before its arguments are looked at. Another error is the kernel's own: it was let in."""
    numbers = SYSCALLS.get(platform.machine())
    if numbers is None:
        raise NotImplementedError("no numbers for " + platform.machine())
    if libc.syscall(ctypes.c_long(numbers[name]), *[ctypes.c_long(0)] * 6) == -1:
        number = ctypes.get_errno()
        if number in (1, 38):  # EPERM, ENOSYS
            raise OSError(number, os.strerror(number))
        return "the kernel answered %s" % os.strerror(number)
    return "it worked"


def capabilities():
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    held = {name: fields[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(fields[name], 16)}
    if held:
        return "capabilities %s" % held
    if fields["NoNewPrivs"].strip() != "1" or fields["Seccomp"].strip() != "2":
        return "no-new-privileges or seccomp is off"
    return None


def root():
    return "uid %d, gid %d" % (os.getuid(), os.getgid()) if 0 in (os.getuid(), os.getgid(), *os.getgroups()) else None


def setuid_programs():
    """Programs that would run as their owner, and whether one of them does."""
    for name in ("su", "mount", "passwd", "newgrp", "sudo", "chsh"):
        path = shutil.which(name)
        if path and os.stat(path).st_mode & 0o6000:
            return "%s is set-uid" % path
    return None


def become_root():
    su = shutil.which("su")
    if su is None:
        raise FileNotFoundError("no su")
    done = subprocess.run([su, "-c", "id -u"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode == 0 and done.stdout.strip() == "0":
        return "su made it root"
    raise PermissionError(done.stderr or done.stdout)


def trace(pid):
    libc.ptrace.restype = ctypes.c_long
    return worked(libc.ptrace(PTRACE_SEIZE, pid, None, None), "traces %d" % pid)


def processes():
    """Everything it sees runs as itself."""
    others = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with open("/proc/%s/status" % pid, encoding="ascii") as status:
            uids = next(line.split()[1:] for line in status if line.startswith("Uid:"))
        if set(uids) != {str(os.getuid())}:
            others.append(pid)
    return "sees processes of others: %s" % others if others else None


def kill_init():
    """The kernel keeps a namespace's first process from signals it doesn't handle."""
    os.kill(1, 9)
    os.kill(1, 0)


def secrets_in_environment():
    found = [name for name in os.environ if any(word in name.upper() for word in ("KEY", "TOKEN", "SECRET", "PASSWORD"))]
    return "environment has %s" % found if found else None


def attempts():
    yield "root", root
    yield "capabilities", capabilities
    yield "setuid_root", lambda: os.setuid(0) or "uid 0"
    yield "setgid_root", lambda: os.setgid(0) or "gid 0"
    yield "setgroups", lambda: os.setgroups([0]) or "group 0"
    yield "setuid_programs", setuid_programs
    yield "su", become_root
    yield "user_namespace", lambda: worked(libc.unshare(CLONE_NEWUSER), "a user namespace")
    yield "mount_namespace", lambda: worked(libc.unshare(CLONE_NEWNS), "a mount namespace")
    yield "network_namespace", lambda: worked(libc.unshare(CLONE_NEWNET), "a network namespace")
    yield "join_namespace", lambda: worked(libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0), "PID 1's namespace")
    yield "mount_tmpfs", lambda: worked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), "a mount")
    yield "remount_root", lambda: worked(libc.mount(None, b"/", None, 0x1020, None), "a writable root")  # MS_REMOUNT|MS_BIND
    yield "mount_cgroup", lambda: worked(libc.mount(b"none", b"/tmp", b"cgroup", 0, b"memory"), "a cgroup mount")
    yield "umount", lambda: worked(libc.umount2(b"/proc/kcore", 2), "an umount")
    yield "chroot", lambda: os.chroot("/tmp") or "chroot"
    for name in SYSCALLS["x86_64"]:
        yield name, lambda name=name: syscall(name)
    yield "trace_pid1", lambda: trace(1)
    yield "kill_pid1", kill_init
    yield "processes_of_others", processes
    yield "set_clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0) or "the clock"
    yield "set_hostname", lambda: worked(libc.sethostname(b"escaped", 7), "the host's name")
    yield "kernel_log", lambda: worked(libc.klogctl(3, ctypes.create_string_buffer(64), 64), "the kernel's log")
    yield "negative_nice", lambda: os.nice(-10) and "priority"
    yield "real_time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) or "real time"
    yield "raise_files", lambda: raise_limit(resource.RLIMIT_NOFILE)
    yield "raise_core", lambda: raise_limit(resource.RLIMIT_CORE)
    yield "secrets_in_environment", secrets_in_environment


def raise_limit(which):
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (hard + 1, hard + 1))
    return "a limit of %d" % (hard + 1)
