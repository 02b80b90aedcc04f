"""The forced command of a test's sshd: `python -I -S hand_over.py SOCKET CONFIG`. See tests/far_side.py."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect(sys.argv[1])
    order = {"module": "tests.far_side", "arguments": [sys.argv[2], str(os.getpid())]}
    socket.send_fds(connection, [json.dumps(order).encode()], [0, 1, 2])
    for fd in (0, 1):
        os.close(fd)
    connection.recv(4)  # its number
    answer = connection.recv(4)
code = int.from_bytes(answer, sys.byteorder, signed=True) if answer else -9
sys.exit(code if code >= 0 else 128 - code)
