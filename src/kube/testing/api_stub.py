#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server for the transport's tests: odd answers, and a scripted API server.

usage: api_stub.py [CERTIFICATE KEY CLIENT_CA]

Listens on a free port of 127.0.0.1 and prints it; with arguments it speaks TLS and asks for a
client certificate without insisting. It ends when its standard input does.
"""

import gzip
import http.server
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse


def service(name, version):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": version},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "protocol": "TCP"}]},
    }


def service_list(version, items, more=""):
    return {
        "apiVersion": "v1",
        "kind": "ServiceList",
        "metadata": {"resourceVersion": version, "continue": more},
        "items": items,
    }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    watches = 0
    connections = 0

    def setup(self):
        super().setup()
        with Handler.lock:
            Handler.connections += 1
            self.number = Handler.connections

    def log_message(self, *_):
        pass

    def answer(self, value, status=200, headers=(), compress=False):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        if compress:
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "application/json")
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, kind, value):
        self.chunk(json.dumps({"type": kind, "object": value}).encode() + b"\n")

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        name = "do_" + url.path.strip("/").split("/")[-1]
        getattr(self, name, lambda _: self.answer({}, 404))(query)

    def do_echo(self, _):
        peer = ""
        if isinstance(self.connection, ssl.SSLSocket):
            certificate = self.connection.getpeercert() or {}
            for item in certificate.get("subject", ()):
                peer += item[0][0] + "=" + item[0][1]
        self.answer({"headers": dict(self.headers.items()), "peer": peer,
                     "connection": self.number, "path": self.path})

    def do_gzip(self, _):
        self.answer(b"x" * 200000, compress=True)

    def do_status(self, query):
        self.answer({"message": "said so"}, int(query["code"]), [("Retry-After", "7")])

    def do_stream(self, query):
        self.begin_stream()
        for i in range(int(query["count"])):
            self.chunk(b"piece %d\n" % i)
            time.sleep(0.02)
        self.chunk(b"")

    def do_endless(self, _):
        self.begin_stream()
        try:
            while True:
                self.chunk(b"x")
                time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def do_quiet(self, _):
        self.begin_stream()
        self.chunk(b"x")
        time.sleep(60)

    def do_hang(self, _):
        time.sleep(60)

    def do_half(self, _):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"half")
        self.wfile.flush()
        self.close_connection = True

    # Two pages, a watch that tells of one change, one that was reset, and one that came too late;
    # then another list, and a watch that stays.
    def do_services(self, query):
        if "watch" in query:
            self.do_watch(query)
        elif Handler.watches >= 3:
            self.answer(service_list("300", [service("b", "2"), service("late", "250")]))
        elif "continue" in query:
            self.answer(service_list("100", [service("b", "2")]))
        else:
            self.answer(service_list("100", [service("a", "1")], "second"), compress=True)

    def do_watch(self, query):
        with Handler.lock:
            Handler.watches += 1
            number = Handler.watches
        version = query["resourceVersion"]
        if number == 2 and version != "101" or number == 3 and version != "102":
            self.answer({}, 400)
            return
        if number == 3:
            self.answer({"kind": "Status", "code": 410, "message": "too old"}, 410)
            return
        self.begin_stream()
        if number == 1:
            self.event("ADDED", service("c", "101"))
            self.chunk(b"")
            return
        if number == 2:
            self.event("MODIFIED", service("c", "102"))
            self.wfile.write(b"5\r\n{")  # and no more of this chunk
            self.wfile.flush()
            self.close_connection = True
            return
        self.event("ADDED", service("last", "301"))
        time.sleep(60)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    context = None

    def finish_request(self, request, client_address):
        # In the connection's own thread, so that a slow handshake holds up nobody.
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        pass


def main():
    server = Server(("127.0.0.1", 0), Handler)
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
        context.load_verify_locations(sys.argv[3])
        context.verify_mode = ssl.CERT_OPTIONAL
        server.context = context
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
