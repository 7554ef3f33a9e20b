"""A mail server on aiosmtpd that can be told to misbehave.

Reads its settings from the JSON file in argv[1]. Appends to `events.jsonl` in the folder of that file what it is told
and what it takes, and looks into `fault.json` there when a connection begins.
"""

import asyncio
import base64
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

settings_path = pathlib.Path(sys.argv[1])
settings = json.loads(settings_path.read_text())
folder = settings_path.parent
events = (folder / "events.jsonl").open("a", buffering=1)
counter = {"connection": 0, "message": 0}


def note(**event):
    events.write(json.dumps(event) + "\n")


def fault():
    try:
        return json.loads((folder / "fault.json").read_text())
    except FileNotFoundError:
        return {}


class Handler:
    async def handle_DATA(self, server, session, envelope):
        answer = server.fault.get("replies", {}).get("END")
        if not answer:
            counter["message"] += 1
            name = f"message-{counter['message']}.eml"
            (folder / name).write_bytes(envelope.original_content)
            note(message=name, mail_from=envelope.mail_from, rcpt_tos=envelope.rcpt_tos, tls=server.encrypted())
        if server.fault.get("close") == "END":
            server.transport.abort()
            raise asyncio.CancelledError
        if server.fault.get("silent") == "END":
            await asyncio.sleep(3600)
        return answer or "250 2.0.0 OK"

    async def auth_XOAUTH2(self, server, args):
        expected = f"user={settings['user']}\x01auth=Bearer {settings['token']}\x01\x01"
        if len(args) == 2 and base64.b64decode(args[1]).decode() == expected:
            return AuthResult(success=True)
        problem = base64.b64encode(b'{"status":"401","schemes":"bearer"}').decode()
        await server.push(f"334 {problem}")
        line = (await server._reader.readline()).rstrip(b"\r\n")
        note(xoauth2_problem_answer=line.decode())
        return AuthResult(success=False, handled=False)


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (
        settings["user"].encode(),
        settings["password"].encode(),
    )
    return AuthResult(success=good, handled=False)


class Server(SMTP):
    def __init__(self, implicit):
        counter["connection"] += 1
        self.implicit = implicit
        self.connection = counter["connection"]
        self.fault = fault()
        super().__init__(
            Handler(),
            hostname="mail.test",
            loop=asyncio.get_running_loop(),
            enable_SMTPUTF8=False,
            tls_context=None if implicit or not settings["starttls"] else context,
            require_starttls=settings["starttls"] and not implicit,
            auth_required=settings["login"],
            auth_require_tls=not implicit,
            authenticator=authenticate,
            auth_exclude_mechanism=settings["without"],
            data_size_limit=settings["size"],
        )
        self.command_size_limits["AUTH"] = 12288
        for verb, method in self._smtp_methods.items():
            self._smtp_methods[verb] = self.watched(verb, method)

    def encrypted(self):
        return self.implicit or self._tls_protocol is not None

    def watched(self, verb, method):
        async def call(arg):
            shown = (arg or "").split(" ")[0] if verb == "AUTH" else arg
            note(command=verb, argument=shown, tls=self.encrypted(), connection=self.connection)
            answer = self.fault.get("replies", {}).get(verb)
            if self.fault.get("close") == verb:
                self.transport.abort()
                raise asyncio.CancelledError
            if self.fault.get("silent") == verb:
                await asyncio.sleep(3600)
            if answer:
                return await self.push(answer)
            return await method(arg)

        return call

    def connection_made(self, transport):
        # Comes a second time after STARTTLS.
        if not self._tls_protocol:
            note(connection=self.connection, peer=transport.get_extra_info("peername")[1], implicit=self.implicit)
        super().connection_made(transport)

    async def push(self, status):
        if isinstance(status, bytes):
            return await super().push(status)
        injected = self.fault.get("inject")
        if injected and status == "220 Ready to start TLS":
            status = f"{status}\r\n{injected}"
        if status.startswith("220 mail.test"):
            while line := self.fault.get("endless"):
                self._writer.write(line.encode())
                await self._writer.drain()
            greeting = self.fault.get("replies", {}).get("GREETING")
            if self.fault.get("close") == "GREETING":
                self.transport.abort()
                raise asyncio.CancelledError
            if self.fault.get("silent") == "GREETING":
                await asyncio.sleep(3600)
            status = greeting or status
        await super().push(status)


context = None
if settings["certificate"]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["certificate"], settings["key"])


async def main():
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(lambda: Server(False), "127.0.0.1", settings["port"])
    if context:
        await loop.create_server(lambda: Server(True), "127.0.0.1", settings["tls_port"], ssl=context)
    await plain.serve_forever()


asyncio.run(main())
