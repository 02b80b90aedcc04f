"""The forced command of a test's sshd: `python -I -S hand_over.py SOCKET CONFIG`. See tests/far_side.py."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    socket.send_fds(connection, [json.dumps({"config": sys.argv[2], "pid": os.getpid()}).encode()], [0, 1, 2])
    for fd in (0, 1):
        os.close(fd)
    answer = connection.recv(1)
sys.exit(answer[0] if answer else 137)
