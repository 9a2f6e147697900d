"""Whom a node can talk to: with ``[local] network = "none"``, only itself."""

import os
import socket

from .attempt import OWN, Facts, probe

_PATIENCE = 3.0
_VMADDR_LOCAL = 1


def _unix(address: str | bytes) -> str:
    """Through the directory, since a socket's path may only have 108 bytes."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(_PATIENCE)
        if isinstance(address, str) and address.startswith("/"):
            os.chdir(os.path.dirname(address))
            address = os.path.basename(address)
        channel.connect(address)
    return f"connected to {address!r}"


def _tcp(address: str, port: int) -> str:
    with socket.create_connection((address, port), _PATIENCE):
        return f"connected to {address}:{port}"


@probe(bare=True)
def talk_to_the_admin_socket(facts: Facts) -> str:
    return _unix(facts.admin)


@probe(bare=True)
def talk_to_the_shim(facts: Facts) -> str:
    return _unix(f"{OWN}/control/shim.sock")


@probe(bare=True)
def talk_to_another_jobs_shim(facts: Facts) -> str:
    return _unix(f"{facts.other}/control/shim.sock")


@probe(bare=True)
def talk_to_a_service_of_the_machine(facts: Facts) -> str:
    return _unix(f"{facts.outside}/service.sock")


@probe(bare=True)
def talk_to_an_abstract_socket(facts: Facts) -> str:
    return _unix(b"\0" + facts.abstract.encode())


@probe(bare=False)
def talk_to_the_launcher(facts: Facts) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(facts.launcher)
    return "connected"


@probe(bare=False)
def talk_to_the_system_bus(facts: Facts) -> str:
    return _unix("/run/systemd/private")


@probe(bare=True)
def talk_to_the_daemon(facts: Facts) -> str:
    return _tcp("127.0.0.1", facts.port)


@probe(bare=True)
def reach_a_server_on_loopback(facts: Facts) -> str:
    return _tcp("127.0.0.1", facts.tcp)


@probe(bare=True)
def reach_a_server_on_loopback_by_another_address(facts: Facts) -> str:
    return _tcp("127.99.0.1", facts.tcp)


@probe(bare=True)
def reach_a_server_on_a_private_address(facts: Facts) -> str:
    return _tcp(facts.address, facts.tcp)


@probe(bare=True)
def reach_a_server_without_a_connection(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(_PATIENCE)
        channel.sendto(b"ping", ("127.0.0.1", facts.udp))
        return f"it answers {channel.recv(16)!r}"


@probe(bare=False)
def listen_to_all_packets(facts: Facts) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        return "a packet socket"


@probe(bare=False)
def send_packets_of_ones_own_making(facts: Facts) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW):
        return "a raw socket"


@probe(bare=True)
def open_a_virtual_socket(facts: Facts) -> str:
    """They reach the hypervisor and other virtual machines, past all network namespaces."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as channel:
        return f"socket {channel.fileno()}"


@probe(bare=False)
def open_a_socket_to_the_kernels_cryptography(facts: Facts) -> str:
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as channel:
        return f"socket {channel.fileno()}"


@probe(bare=True)
def be_reached_from_outside(facts: Facts) -> str:
    """What listens in here is called from outside: by whoever started the job, at this port."""
    with socket.create_server(("0.0.0.0", facts.listen)) as server:
        server.settimeout(_PATIENCE)
        _, caller = server.accept()
        return f"called by {caller}"
