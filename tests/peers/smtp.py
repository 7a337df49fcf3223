"""An SMTP server for tests, by aiosmtpd: STARTTLS or TLS from the first byte, with a login, on a free port of the loopback.

Prints its port, then one JSON object for each message that it takes. Recipients whose names begin with `later`, `never` or
`once` are refused with 451, 550, or with 451 at first. A sender that begins with `reject` has its data refused with 554.
"""

import asyncio
import json
import ssl
import sys

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


handler = Handler()


def factory():
    login = dict(authenticator=authenticate, auth_required=bool(user))
    if mode == "starttls":
        return SMTP(handler, hostname="localhost", tls_context=context, require_starttls=True, **login)
    return SMTP(handler, hostname="localhost", auth_require_tls=False, **login)


async def main():
    tls = context if mode == "implicit" else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends with its standard input, so that it does not outlive the test.
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
