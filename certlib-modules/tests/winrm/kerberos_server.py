"""A WinRM that knows Kerberos by MIT's library, and refuses everybody who has logged in, in sealed words.

Prints its port, then one line for each sealed request that it could open.
"""

import base64
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import gssapi

FAULT = """<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"
 xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"><s:Header><a:RelatesTo>%s</a:RelatesTo></s:Header><s:Body>
 <s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>w:AccessDenied</s:Value></s:Subcode></s:Code>
 <s:Reason><s:Text xml:lang="en-US">no</s:Text></s:Reason><s:Detail>
 <f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="5"/></s:Detail></s:Fault></s:Body>
</s:Envelope>"""
BOUNDARY = b"--Encrypted Boundary"


class WinRm(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    context = None

    def log_message(self, *_):
        pass

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        login = self.headers.get("Authorization", "")
        if self.context is None or not self.context.complete:
            if not login.startswith("Negotiate "):
                return self.answer(401, [("WWW-Authenticate", "Negotiate"), ("WWW-Authenticate", "Kerberos")])
            if self.context is None:
                self.context = gssapi.SecurityContext(creds=gssapi.Credentials(usage="accept"), usage="accept")
            token = self.context.step(base64.b64decode(login[10:])) or b""
            header = [("WWW-Authenticate", "Negotiate " + base64.b64encode(token).decode())]
            return self.answer(200 if self.context.complete else 401, header)
        binary = body.split(b"application/octet-stream\r\n", 1)[1]
        size = int.from_bytes(binary[:4], "little")
        sealed = binary[4 : binary.rindex(BOUNDARY)]
        opened = self.context.unwrap(sealed)
        assert opened.encrypted and size < len(sealed)
        plain = opened.message.decode()
        said = re.search(r"OriginalContent: type=application/soap\+xml;charset=UTF-8;Length=(\d+)", body.decode("latin-1"))
        assert int(said[1]) == len(opened.message), (said[1], len(opened.message))
        action = re.search(r"<wsa:Action[^>]*>[^<]*/(\w+)</wsa:Action>", plain)[1]
        print("opened", action, "of", self.context.initiator_name, flush=True)
        answer = (FAULT % re.search(r"uuid:[0-9A-F-]{36}", plain)[0]).encode()
        wrapped = self.context.wrap(answer, True).message
        # As Windows sends it: what ends the token (a header and a checksum, 28 bytes) is turned to its front, and the
        # first 60 bytes (header, that, and the confounder) stand for the signature.
        header, rest = wrapped[:6] + (28).to_bytes(2, "big") + wrapped[8:16], wrapped[16:]
        parts = (60).to_bytes(4, "little") + header + rest[-28:] + rest[:-28]
        head = (
            "\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\tOriginalContent: "
            "type=application/soap+xml;charset=UTF-8;Length=%d\r\n" % len(answer)
        ).encode()
        message = BOUNDARY + head + BOUNDARY + b"\r\n\tContent-Type: application/octet-stream\r\n" + parts
        kind = 'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'
        self.answer(500, [("Content-Type", kind)], message + BOUNDARY + b"--\r\n")


server = HTTPServer(("127.0.0.1", 0), WinRm)
print(server.server_port, flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
