"""First on PYTHONPATH while notebooks run: no Python code reaches a network."""

import socket


def refuse(*_, **__):
    raise OSError("the notebooks run without a network")


class Offline(socket.socket):
    connect = connect_ex = sendto = refuse


socket.socket = Offline
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
