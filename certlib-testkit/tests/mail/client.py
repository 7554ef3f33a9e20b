"""Speaks to a mail server with Python's own client: plain, after STARTTLS, and over TLS. Prints what it checked."""

import smtplib
import socket
import ssl
import sys

plain, implicit, ca, user, password = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
context = ssl.create_default_context(cafile=ca)
checks = 0


def check(fact, what):
    global checks
    assert fact, what
    checks += 1


def refused(action, codes):
    try:
        action()
    except smtplib.SMTPResponseException as error:
        check(error.smtp_code in codes, error)
    except smtplib.SMTPRecipientsRefused as error:
        check(all(code in codes for code, _ in error.recipients.values()), error)
    else:
        raise AssertionError("not refused")


class Named(smtplib.SMTP_SSL):
    """The certificate is for `mail.test`, whatever is dialled."""

    def _get_socket(self, host, port, timeout):
        stream = socket.create_connection(("127.0.0.1", port), timeout)
        return context.wrap_socket(stream, server_hostname="mail.test")


with smtplib.SMTP("127.0.0.1", plain) as client:
    client.ehlo()
    check(client.has_extn("starttls"), "STARTTLS is offered")
    check(not client.has_extn("auth"), "no login in the clear")
    client._host = "mail.test"
    client.starttls(context=context)
    client.ehlo()
    check({"PLAIN", "LOGIN", "XOAUTH2"} <= set(client.esmtp_features["auth"].split()), client.esmtp_features)
    refused(lambda: client.sendmail("a@example.com", ["b@example.com"], "Subject: early\r\n\r\n"), {530, 550})
    client.rset()
    refused(lambda: client.login(user, "wrong"), {535})
    client.login(user, password)
    check(client.sendmail("a@example.com", ["b@example.com"], "Subject: one\r\n\r\n.\r\n..two\r\n") == {}, "taken")

with Named("mail.test", implicit) as client:
    client.login(user, password)
    check(client.sendmail("a@example.com", ["b@example.com", "c@example.com"], "Subject: two\r\n\r\n") == {}, "taken")

print(f"{checks} checks")
