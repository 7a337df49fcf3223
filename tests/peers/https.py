"""An HTTPS server for tests on a free port of the loopback; asks for a client certificate if it is given a CA.

Prints its port, then one JSON object for each request that it takes. Ends with its standard input.
"""

import http.server
import json
import os
import ssl
import sys
import threading

certificate, key, client_ca = sys.argv[1:4]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        peer = self.connection.getpeercert()
        name = dict(pair[0] for pair in peer["subject"])["commonName"] if peer else None
        seen = {"path": self.path, "headers": dict(self.headers), "body": body.decode(), "client": name}
        print(json.dumps(seen), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)
if client_ca:
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os._exit(0)
