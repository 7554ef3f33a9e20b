"""Drives a simulated Windows host with pywinrm and checks every answer.

Arguments: HTTPS URL, HTTP URL, file with the root certificate, files with a client certificate and its key.
Standard input: user, password. Ends with the number of checks on its last line.
"""

import sys
import time
import warnings

import winrm
from winrm.exceptions import InvalidCredentialsError, WinRMOperationTimeoutError, WinRMTransportError, WSManFaultError
from winrm.protocol import Protocol

warnings.simplefilter("ignore")
HTTPS, HTTP, CA, CLIENT_CERTIFICATE, CLIENT_KEY = sys.argv[1:6]
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


def protocol(url=HTTPS, **options):
    options = {"transport": "ntlm", "username": USER, "password": PASSWORD, "ca_trust_path": CA, "proxy": None} | options
    return Protocol(url, **options)


def session(url=HTTPS, user=USER, password=PASSWORD, **options):
    options = {"transport": "ntlm", "ca_trust_path": CA, "proxy": None} | options
    return winrm.Session(url, auth=(user, password), **options)


def run(client, command, arguments=(), stdin=None, **shell):
    """Output, errors and exit code of a command, with the steps that a client has to go through."""
    shell_id = client.open_shell(**shell)
    command_id = client.run_command(shell_id, command, arguments)
    if stdin is not None:
        half = len(stdin) // 2
        client.send_command_input(shell_id, command_id, stdin[:half])
        client.send_command_input(shell_id, command_id, stdin[half:], end=True)
    try:
        return client.get_command_output(shell_id, command_id)
    finally:
        client.cleanup_command(shell_id, command_id)
        client.close_shell(shell_id, close_session=False)


def every_login():
    ways = {
        "Basic over HTTPS": protocol(transport="basic"),
        "NTLM over HTTPS": protocol(),
        "NTLM over HTTPS without channel bindings": protocol(send_cbt=False),
        "NTLM over HTTPS with encrypted messages": protocol(message_encryption="always"),
        "NTLM over HTTP with encrypted messages": protocol(HTTP),
        "a domain": protocol(username=f"WORKGROUP\\{USER}"),
        "the computer": protocol(username=f"winsim\\{USER.upper()}"),
        "a principal name": protocol(username=f"{USER}@WORKGROUP"),
        "a certificate": protocol(transport="certificate", cert_pem=CLIENT_CERTIFICATE, cert_key_pem=CLIENT_KEY),
    }
    for name, client in ways.items():
        out, errors, code = run(client, "whoami")
        check(out.decode().strip() == f"winsim\\{USER.lower()}", f"{name}: {out}")
        check((errors, code) == (b"", 0), f"{name}: {errors} {code}")


def wrong_logins():
    ways = {
        "a wrong password, Basic": protocol(transport="basic", password="wrong"),
        "a wrong password, NTLM": protocol(password="wrong"),
        "a wrong password, encrypted": protocol(HTTP, password="wrong"),
        "an unknown user": protocol(username="nobody"),
        "another domain": protocol(username=f"ELSEWHERE\\{USER}"),
        "Basic without TLS": protocol(HTTP, transport="basic"),
    }
    for name, client in ways.items():
        refused(InvalidCredentialsError, name, client.open_shell)
    error = refused(WinRMTransportError, "plain messages over HTTP", protocol(HTTP, message_encryption="never").open_shell)
    check(error.code == 500, f"plain messages over HTTP: {error.code}")
    refused(WinRMTransportError, "another path", protocol(HTTPS.replace("/wsman", "/other")).open_shell)


def commands(url):
    client = protocol(url)
    check(run(client, "echo", ["hello", "world"])[0] == b"hello world\r\n", "echo")
    check(run(client, "ipconfig", ["/all"])[0].decode().count("IPv4") == 1, "ipconfig")
    out, errors, code = run(client, "no-such-program")
    check(b"not recognized" in errors and code == 1 and out == b"", "an unknown program")
    check(run(client, "exit", ["/b", "17"])[2] == 17, "an exit code")
    check(run(client, "exit -2")[2] == -2, "a negative exit code")
    out = run(client, "echo one&& echo two& exit 3&echo never")
    check((out[0], out[2]) == (b"one\r\n two\r\n".replace(b" two", b"two"), 3), f"several commands: {out}")
    environment = run(client, "echo", ["%GREETING% %NONE%"], env_vars={"GREETING": "good morning"})
    check(environment[0] == b"good morning %NONE%\r\n", f"the environment: {environment}")
    check(run(client, "cd", working_directory="C:\\Windows")[0] == b"C:\\Windows\r\n", "the directory")
    check(run(client, "sort", stdin=b"b\r\nc\r\na\r\n")[0] == b"a\r\nb\r\nc\r\n", "standard input")
    check(run(client, "powershell -Command [Console]::In.ReadToEnd()", stdin=b"x" * 90_000)[0].strip() == b"x" * 90_000, "much input")
    written = run(client, "echo text> C:\\Windows\\Temp\\f& echo more>> C:\\Windows\\Temp\\f& type C:\\Windows\\Temp\\f")
    check(written[0] == b"text\r\nmore\r\n", f"a file: {written}")
    check(run(client, "del C:\\Windows\\Temp\\f")[2] == 0 and run(client, "type C:\\Windows\\Temp\\f")[2] == 1, "no file")
    sent = "Grüße ≈".encode()
    check(run(client, "powershell -Command 'Gr\u00fc\u00dfe \u2248'", codepage=65001)[0].strip() == sent, "UTF-8")
    check(run(client, "powershell -Command 'Gr\u00fc\u00dfe \u2248'")[0].decode("437").strip() == "Gr\u00fc\u00dfe \u2248", "437")


def powershell(url):
    client = session(url)
    check(client.run_ps("Write-Output 'one','two'; exit 5").std_out == b"one\r\ntwo\r\n", "output")
    answer = client.run_ps("$x = 20; 1..3 | ForEach-Object { \"item $_ of $($x + 1)\" }; exit $x")
    check(answer.std_out == b"item 1 of 21\r\nitem 2 of 21\r\nitem 3 of 21\r\n" and answer.status_code == 20, f"{answer}")
    answer = client.run_ps("'before'; throw 'it <broke> & stopped'; 'after'")
    check((answer.std_out, answer.status_code) == (b"before\r\n", 1), f"thrown: {answer}")
    check(answer.std_err.startswith(b"it <broke> & stopped"), f"the message of CLIXML: {answer.std_err}")
    answer = client.run_ps("Get-Nothing; 'after'")
    check(answer.std_out == b"after\r\n" and b"not recognized" in answer.std_err, "an unknown command is no end")
    answer = client.run_ps("$ErrorActionPreference = 'Stop'; Get-Nothing; 'after'")
    check((answer.std_out, answer.status_code) == (b"", 1), "unless it is to be")
    large = client.run_ps("'0123456789' * 200000")
    check(large.std_out == b"0123456789" * 200_000 + b"\r\n", f"two megabytes: {len(large.std_out)}")
    check(client.run_ps("try { throw 'inside' } catch { \"caught $_\" }").std_out == b"caught inside\r\n", "caught")
    branches = "$x = 5 - 3; if ($x -eq 2 -and $x -lt 3) { 'two' } else { 'other' }; if ($x -ne 2) { 'no' }; $env:USERNAME -eq 'x'"
    check(client.run_ps(branches).std_out == b"two\r\nFalse\r\n", f"branches: {client.run_ps(branches)}")
    check(client.run_ps("function f { 1 }").status_code == 1, "what is not understood fails")


def faults(url):
    client = protocol(url)
    error = refused(WSManFaultError, "an unknown shell", client.run_command, "11111111-1111-1111-1111-111111111111", "ver")
    check((error.wsman_fault_code, error.code) == (2150858843, 500), f"an unknown shell: {error}")
    check(error.fault_subcode == "w:InvalidSelectors" and "shell was not found" in error.reason, f"its text: {error}")
    shell = client.open_shell()
    error = refused(WSManFaultError, "a long command line", client.run_command, shell, "echo " + "x" * 8192)
    check(error.wsman_fault_code == 2147942606, f"a long command line: {error}")
    refused(WSManFaultError, "an unknown command", client.cleanup_command, shell, "22222222-2222-2222-2222-222222222222")
    command = client.run_command(shell, "sort")
    error = refused(WinRMTransportError, "a huge message", client.send_command_input, shell, command, b"x" * 600_000)
    check(error.code == 413, f"a huge message: {error.code}")
    client.close_shell(shell)
    refused(WSManFaultError, "a closed shell", protocol(url).run_command, shell, "ver")


def timeouts():
    client = protocol(operation_timeout_sec=1, read_timeout_sec=10)
    shell = client.open_shell()
    command = client.run_command(shell, "ping -n 4 127.0.0.1")
    begun = time.monotonic()
    refused(WinRMOperationTimeoutError, "nothing yet", client.get_command_output_raw, shell, command)
    check(0.9 <= time.monotonic() - begun < 2.5, "after a second")
    out, _, code = client.get_command_output(shell, command)
    check(out.count(b"Reply from") == 4 and code == 0, "in the end there is output")
    client.cleanup_command(shell, command)
    client.close_shell(shell)


every_login()
wrong_logins()
for url in (HTTPS, HTTP):
    commands(url)
    powershell(url)
    faults(url)
timeouts()
print(f"{CHECKS} checks")
