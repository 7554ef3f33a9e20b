"""Reads a message from standard input as a mail program would, and prints what is in it as JSON."""

import base64
import email
import email.policy
import json
import sys

raw = sys.stdin.buffer.read()
message = email.message_from_bytes(raw, policy=email.policy.default)
text = message.get_body(preferencelist=("plain",))
print(
    json.dumps(
        {
            "headers": [[name.lower(), str(value)] for name, value in message.items()],
            "defects": [repr(defect) for part in message.walk() for defect in part.defects],
            "text": text.get_content(),
            "attachments": [
                {
                    "name": part.get_filename(),
                    "type": part.get_content_type(),
                    "disposition": part.get_content_disposition(),
                    "base64": base64.b64encode(part.get_payload(decode=True)).decode(),
                }
                for part in message.iter_attachments()
            ],
            "longest_line": max(len(line) for line in raw.splitlines()),
        }
    )
)
