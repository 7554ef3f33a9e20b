"""Serves acme2certifier over HTTPS on one address of 127.0.0.1.

Arguments: port, certificate file, key file, DNS server ("host:port" or "-"), HTTP-01 port (or "-").

acme2certifier reads its configuration once and always validates at the ports 53 and 80. This runner reads the
configuration again when the file has changed, and replaces the two port numbers; everything else is the original.
"""

import os
import socketserver
import ssl
import sys
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

PORT, CERTIFICATE, KEY, DNS_SERVER, HTTP_PORT = sys.argv[1:6]
CONFIG_FILE = os.environ["ACME_SRV_CONFIGFILE"]

if DNS_SERVER != "-":
    import dns.resolver

    RESET = dns.resolver.BaseResolver.reset

    def reset(self):
        RESET(self)
        self.port = int(DNS_SERVER.rsplit(":", 1)[1])

    dns.resolver.BaseResolver.reset = reset

if HTTP_PORT != "-":
    from acme2certifier.acme_srv.helpers import network

    URL_HOST = network._http_url_host
    network._http_url_host = lambda address: f"{URL_HOST(address)}:{HTTP_PORT}"

from acme2certifier.acme_srv.helpers import config  # noqa: E402
from acme2certifier.share import acme2certifier_wsgi as server  # noqa: E402

LOCK = threading.Lock()
LOADED = os.stat(CONFIG_FILE).st_mtime_ns


def reload_configuration():
    global LOADED
    changed = os.stat(CONFIG_FILE).st_mtime_ns
    if changed != LOADED:
        config.load_config_cache_clear()
        server.CONFIG = config.load_config()
        LOADED = changed


def application(environ, start_response):
    environ["wsgi.url_scheme"] = "https"

    def log_and_start(status, headers, exc_info=None):
        print("request", environ["REQUEST_METHOD"], environ["PATH_INFO"], status.split()[0], file=sys.stderr, flush=True)
        return start_response(status, headers, exc_info)

    # One request at a time: the database and the revocation list are plain files.
    with LOCK:
        reload_configuration()
        return server.application(environ, log_and_start)


class Handler(WSGIRequestHandler):
    def address_string(self):
        return self.client_address[0]

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self):
        # The inherited method looks the host's name up.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]
        self.setup_environ()

    def handle_error(self, request, client_address):
        print("connection failed:", sys.exc_info()[1], file=sys.stderr, flush=True)


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(CERTIFICATE, KEY)
SERVER = Server(("127.0.0.1", int(PORT)), Handler)
# The handshake belongs to the connection's own thread, so that a silent client stops nobody.
SERVER.socket = CONTEXT.wrap_socket(SERVER.socket, server_side=True, do_handshake_on_connect=False)
SERVER.set_app(application)
SERVER.serve_forever()
