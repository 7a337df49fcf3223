"""An SMTP server for tests, by aiosmtpd: STARTTLS or TLS from the first byte, with a login, on a free port of the loopback.

Prints its port, then one JSON object for each message that it takes. Recipients whose names begin with `later`, `never` or
`once` are refused with 451, 550, or with 451 at first. A sender that begins with `reject` has its data refused with 554.
"""

import json
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

mode, certificate, key, user, password = sys.argv[1:6]


class Handler:
    def __init__(self):
        self.seen = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        name = address.split("@")[0]
        if name.startswith("never"):
            return "550 5.1.1 no such user"
        if name.startswith("later"):
            return "451 4.7.1 greylisted"
        if name.startswith("once") and address not in self.seen:
            self.seen.add(address)
            return "451 4.7.1 greylisted"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if envelope.mail_from.startswith("reject"):
            return "554 5.6.0 not this one"
        message = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None or mode == "implicit",
            "login": bool(session.authenticated),
            "hello": session.host_name,
            "data": envelope.content.decode("utf-8"),
        }
        print(json.dumps(message), flush=True)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    ok = data.login.decode() == user and data.password.decode() == password
    return AuthResult(success=ok, handled=False)


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)


class Server(Controller):
    def factory(self):
        login = dict(authenticator=authenticate, auth_required=bool(user))
        if mode == "starttls":
            return SMTP(self.handler, hostname="localhost", tls_context=context, require_starttls=True, **login)
        login["auth_require_tls"] = False
        return SMTP(self.handler, hostname="localhost", **login)


server = Server(
    Handler(),
    hostname="127.0.0.1",
    port=0,
    ssl_context=context if mode == "implicit" else None,
    ready_timeout=30,
)
# Port 0 cannot be asked by the controller's own readiness check.
server._trigger_server = lambda: None
server.start()
print(server.server.sockets[0].getsockname()[1], flush=True)
sys.stdin.read()
server.stop()
