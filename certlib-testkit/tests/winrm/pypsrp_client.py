"""Drives a simulated Windows host with pypsrp's WS-Management and shells, and checks every answer.

Arguments: HTTPS port, HTTP port, file with the root certificate, files with a client certificate and its key.
Standard input: user, password. Ends with the number of checks on its last line.
"""

import logging
import sys
import time
import warnings

import requests
from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError
from pypsrp.shell import CommandState, Process, SignalCode, WinRS
from pypsrp.wsman import NAMESPACES, WSMan

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
HTTPS, HTTP = (int(port) for port in sys.argv[1:3])
CA, CLIENT_CERTIFICATE, CLIENT_KEY = sys.argv[3:6]
USER, PASSWORD = sys.stdin.read().split()
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    if not condition:
        raise SystemExit(f"not so: {what}")


def refused(kind, what, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        check(True, what)
        return error
    raise SystemExit(f"not refused: {what}")


def wsman(ssl=True, **options):
    options = {"username": USER, "password": PASSWORD, "auth": "negotiate", "no_proxy": True} | options
    return WSMan("127.0.0.1", port=HTTPS if ssl else HTTP, ssl=ssl, cert_validation=CA, **options)


def run(connection, executable, arguments=(), stdin=None, **options):
    with connection, WinRS(connection, **options) as shell:
        process = Process(shell, executable, list(arguments))
        process.begin_invoke()
        if stdin is not None:
            size = connection.max_payload_size
            for at in range(0, len(stdin), size):
                process.send(stdin[at : at + size], end=at + size >= len(stdin))
        process.end_invoke()
        process.signal(SignalCode.TERMINATE)
        return process.stdout, process.stderr, process.rc


def every_login():
    ways = {
        "SPNEGO over HTTP": wsman(False),
        "raw NTLM over HTTP": wsman(False, auth="ntlm"),
        "SPNEGO over HTTPS": wsman(),
        "raw NTLM over HTTPS": wsman(auth="ntlm"),
        "without channel bindings": wsman(negotiate_send_cbt=False),
        "encrypted over HTTPS": wsman(encryption="always"),
        "Basic": wsman(auth="basic"),
        "a certificate": wsman(auth="certificate", certificate_pem=CLIENT_CERTIFICATE, certificate_key_pem=CLIENT_KEY),
        "a domain": wsman(False, username=f"workgroup\\{USER}"),
    }
    for name, connection in ways.items():
        out, errors, code = run(connection, "whoami")
        check((out.decode().strip(), errors, code) == (f"winsim\\{USER.lower()}", b"", 0), f"{name}: {out} {errors}")


def wrong_logins():
    for name, options in {
        "SPNEGO": {"ssl": False},
        "raw NTLM": {"ssl": False, "auth": "ntlm"},
        "over TLS": {},
        "Basic": {"auth": "basic"},
    }.items():
        connection = wsman(password="wrong", **options)
        refused(AuthenticationError, f"a wrong password, {name}", connection.get_server_config)
    error = refused(WinRMTransportError, "plain messages", wsman(False, encryption="never").get_server_config)
    check(error.code == 500, "plain messages over HTTP")


def configuration():
    with wsman(False) as connection:
        config = connection.get_server_config().find("cfg:Config", NAMESPACES)
        check(config.find("cfg:MaxEnvelopeSizekb", NAMESPACES).text == "500", "the largest envelope")
        check(config.find("cfg:Service/cfg:AllowUnencrypted", NAMESPACES).text == "false", "encryption is a must")
        check(config.find("cfg:Winrs/cfg:MaxShellsPerUser", NAMESPACES).text == "30", "the quota of shells")
        winrs = connection.get_server_config("config/winrs").find("cfg:Winrs", NAMESPACES)
        check(winrs.find("cfg:MaxProcessesPerShell", NAMESPACES).text == "25", "a part of the configuration")
        before = connection.max_payload_size
        connection.update_max_payload_size()
        check(connection.max_payload_size > before, "the client has taken over the largest envelope")
        refused(WSManFaultError, "an unknown resource", connection.get, "http://example.test/none")
    identify = (
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:i="http://schemas.dmtf.org/wbem/wsman/'
        'identity/1/wsmanidentity.xsd"><s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>'
    )
    answer = requests.post(
        f"https://127.0.0.1:{HTTPS}/wsman",
        data=identify,
        headers={"WSMANIDENTIFY": "unauthenticated", "Content-Type": "application/soap+xml;charset=UTF-8"},
        verify=CA,
    )
    check(answer.status_code == 200 and "Microsoft Corporation" in answer.text, "what needs no login")
    answer = requests.post(f"http://127.0.0.1:{HTTP}/wsman")
    schemes = answer.headers["WWW-Authenticate"]
    check(answer.status_code == 401 and "Negotiate" in schemes and "Basic" not in schemes, f"the schemes: {schemes}")


def shells():
    connection = wsman(False)
    with connection, WinRS(connection, environment={"A": "b"}, working_directory="C:\\Windows", idle_time_out=60) as shell:
        check(shell.owner == USER and shell.client_ip == "127.0.0.1", "who has the shell")
        check(shell.idle_time_out == "PT60.000S", f"its idle time: {shell.idle_time_out}")
        state = shell._get_shell()
        check(state["ShellId"] == shell.id and state["OutputStreams"] == "stdout stderr", f"asked again: {state}")
        process = Process(shell, "echo %A%& cd")
        process.invoke()
        check(process.stdout == b"b\r\nC:\\Windows\r\n", f"environment and directory: {process.stdout}")
        process.signal(SignalCode.TERMINATE)
        error = refused(WSManFaultError, "a command that is gone", process.signal, SignalCode.TERMINATE)
        check(error.code == 2147942487 and error.provider == "Shell cmd plugin", f"its fault: {error}")
        named = Process(shell, "ver")
        shell.command("ver", None, command_id="11111111-2222-3333-4444-555555555555")
        named.id = "11111111-2222-3333-4444-555555555555"
        named.end_invoke()
        check(b"Version 10.0.20348" in named.stdout, "a command with an id of the client's")
        several = [Process(shell, "echo", [str(number)]) for number in range(5)]
        for process in several:
            process.begin_invoke()
        for number, process in reversed(list(enumerate(several))):
            process.end_invoke()
            check(process.stdout.strip() == str(number).encode(), "several commands at once")
    error = refused(WSManFaultError, "a directory that is not there", WinRS(wsman(False), working_directory="C:\\none").open)
    check(error.code == 2147942667, f"a directory that is not there: {error}")


def data():
    sent = bytes(range(32, 127)) * 4000
    for ssl in (True, False):
        out, errors, code = run(
            wsman(ssl), "powershell.exe", ["-NoProfile", "-Command", "[Console]::Out.Write([Console]::In.ReadToEnd())"], sent
        )
        check((out, errors, code) == (sent, b"", 0), f"data there and back: {len(out)} of {len(sent)} {errors}")
    out, errors, code = run(wsman(False), "powershell", ["-Command", "[Console]::Error.WriteLine('bad'); 'good'; exit 9"])
    check((out, errors, code) == (b"good\r\n", b"bad\r\n", 9), f"both streams: {out} {errors} {code}")
    out, errors, code = run(wsman(False), "powershell", ["-Command", "throw 'boom'"])
    check(code == 1 and errors.startswith(b"boom\r\n") and out == b"", f"plain errors: {errors}")
    out, _, code = run(wsman(False), "powershell", ["-Command", "-"], b"'from standard input'\nexit 4\n")
    check((out, code) == (b"from standard input\r\n", 4), f"a script on standard input: {out} {code}")


def timeouts_and_signals():
    with wsman(False, operation_timeout=1) as connection, WinRS(connection) as shell:
        process = Process(shell, "powershell", ["-Command", "Start-Sleep -Seconds 2; 'awake'"])
        process.begin_invoke()
        begun = time.monotonic()
        process.poll_invoke()
        check(process.state == CommandState.PENDING and 0.9 <= time.monotonic() - begun < 1.9, "nothing after a second")
        process.end_invoke()
        check(process.stdout == b"awake\r\n" and time.monotonic() - begun >= 1.9, "output in the end")
        process.signal(SignalCode.CTRL_C)
        endless = Process(shell, "ping", ["-n", "1000", "127.0.0.1"])
        endless.begin_invoke()
        endless.signal(SignalCode.CTRL_C)
        endless.end_invoke()
        check(endless.rc == -1073741510, f"interrupted: {endless.rc}")
        waiting = Process(shell, "sort")
        waiting.begin_invoke()
        waiting.poll_invoke()
        check(waiting.state == CommandState.PENDING, "a command that waits for standard input")
        waiting.send(b"x\r\n")
        waiting.end_invoke()
        check(waiting.stdout == b"x\r\n", "and gets it")
        error = refused(WSManFaultError, "input for a command that has ended", waiting.send, b"y")
        check(error.code == 2147942632, f"input for a command that has ended: {error}")


def limits():
    small = wsman(max_envelope_size=4096)
    error = refused(WSManFaultError, "a small envelope", small.get_server_config)
    check(error.code == 2150858878, f"a small envelope: {error}")
    connection = wsman(False)
    opened = []
    try:
        while True:
            shell = WinRS(connection)
            shell.open()
            opened.append(shell)
    except WSManFaultError as error:
        check(error.code == 2150859173 and len(opened) == 30, f"{len(opened)} shells: {error}")
    for shell in opened:
        shell.close()
    with WinRS(connection) as shell:
        started = 0
        try:
            while True:
                Process(shell, "ver").begin_invoke()
                started += 1
        except WSManFaultError as error:
            check(error.code == 2150859174 and started == 25, f"{started} commands: {error}")


every_login()
wrong_logins()
configuration()
shells()
data()
timeouts_and_signals()
limits()
print(f"{CHECKS} checks")
