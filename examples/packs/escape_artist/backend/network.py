"""Past the container's missing network."""

import socket

# Nobody's (RFC 5737); the cloud's metadata; Docker's usual gateway, which is the host.
ADDRESSES = {"raw_ip": ("198.51.100.1", 80), "metadata_direct": ("169.254.169.254", 80), "docker_gateway": ("172.17.0.1", 22)}
# What may listen on a host's or a suite's loopback: ssh, Docker, the gateway, services, metrics, PostgreSQL, Consul.
LOOPBACK_PORTS = (22, 2375, 2376, 5432, 8080, 8500, 8765, 9090)


def interfaces():
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    return "there is a network: %s" % others if others else None


def isolated():
    """Nothing is sent where something would carry it."""
    found = interfaces()
    if found:
        raise RuntimeError("not tried, since " + found)


def connect(address):
    isolated()
    with socket.create_connection(address, timeout=2):
        return "connected to %s:%d" % address


def datagram(address):
    isolated()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"escaped", address)
    return "sent to %s:%d" % address


def resolve():
    isolated()
    return "resolved to %s" % socket.getaddrinfo("example.com", 443)[0][4][0]


def loopback():
    found = []
    for port in LOOPBACK_PORTS:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    return "somebody listens on loopback ports %s" % found if found else None


def abstract_sockets():
    """Abstract Unix sockets belong to a network namespace; containerd once listened on one in the host's."""
    with open("/proc/net/unix", encoding="ascii", errors="replace") as table:
        found = [line.split()[-1] for line in table if " @" in line]
    return "abstract sockets: %s" % found if found else None


def make(family, kind, protocol=0):
    """The socket alone: it is connected to nothing."""
    with socket.socket(family, kind, protocol):
        return "made a socket of family %d" % family


def attempts():
    yield "interfaces", interfaces
    for name, address in ADDRESSES.items():
        yield name, lambda address=address: connect(address)
    yield "udp", lambda: datagram(("198.51.100.53", 53))
    yield "dns", resolve
    yield "loopback", loopback
    yield "abstract_sockets", abstract_sockets
    yield "raw_socket", lambda: make(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    yield "packet_socket", lambda: make(socket.AF_PACKET, socket.SOCK_RAW)
    yield "vsock", lambda: make(40, socket.SOCK_STREAM)  # AF_VSOCK: to the hypervisor, past every network namespace
    yield "kernel_crypto_socket", lambda: make(38, socket.SOCK_SEQPACKET)  # AF_ALG
