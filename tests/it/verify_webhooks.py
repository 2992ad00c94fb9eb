"""Verifies webhooks with the reference library of Standard Webhooks (PyPI: standardwebhooks).

Reads a JSON object a line: secret (whsec_, or whpk_ for v1a, which the library does not know), headers, body, now (the
verifier's clock in Unix seconds, or null for the real one), accepted (what it must say). Says how many there were, or fails
with the first one that is not as expected.
"""

import base64
import json
import sys
import time
from datetime import datetime, timezone

import standardwebhooks.webhooks as reference
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TOLERANCE_SECS = 300
NOW = None


class Clock(datetime):
    """The library's clock, set to NOW."""

    @classmethod
    def now(cls, tz=None):
        return datetime.fromtimestamp(NOW, tz=tz or timezone.utc)


def verify_v1a(secret, headers, body):
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(secret.removeprefix("whpk_")))
    at = int(headers["webhook-timestamp"])
    if abs(at - NOW) > TOLERANCE_SECS:
        return False
    message = f"{headers['webhook-id']}.{at}.{body}".encode()
    for entry in headers["webhook-signature"].split(" "):
        version, signature = entry.split(",")
        if version == "v1a":
            try:
                key.verify(base64.b64decode(signature), message)
                return True
            except InvalidSignature:
                pass
    return False


def accepts(secret, headers, body):
    if secret.startswith("whpk_"):
        return verify_v1a(secret, headers, body)
    try:
        reference.Webhook(secret).verify(body, headers, json_parse=False)
        return True
    except reference.WebhookVerificationError:
        return False


def main():
    global NOW
    reference.datetime = Clock
    count = 0
    for line in sys.stdin:
        case = json.loads(line)
        NOW = case["now"] if case["now"] is not None else time.time()
        if accepts(case["secret"], case["headers"], case["body"]) != case["accepted"]:
            print(f"not as expected: {line}")
            return 1
        count += 1
    print(f"{count} cases")
    return 0


sys.exit(main())
