"""A proxyless gRPC client: calls shop.Payments/Charge through xds:/// and says in JSON what came of it.

Usage: GRPC_XDS_BOOTSTRAP=bootstrap.json client.py TARGET CALLS
Messages are built by hand from e2e's copy of the wire format, so that no code needs to be generated.
"""

import json
import sys

import grpc
import grpc.experimental


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def charge(order, cents):
    """shop.ChargeRequest{order = 1: string, cents = 2: uint64}."""
    text = order.encode()
    return b"\x0a" + varint(len(text)) + text + b"\x10" + varint(cents)


def main():
    target, calls = sys.argv[1], int(sys.argv[2])
    credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
    codes = {}
    details = ""
    with grpc.secure_channel(target, credentials) as channel:
        call = channel.unary_unary("/shop.Payments/Charge", request_serializer=None, response_deserializer=None)
        for number in range(calls):
            try:
                call(charge(f"grpc-{number}", 100 + number), timeout=30, wait_for_ready=True)
                code = "OK"
            except grpc.RpcError as error:
                code, details = error.code().name, error.details()
            codes[code] = codes.get(code, 0) + 1
    print(json.dumps({"codes": codes, "details": details}))


if __name__ == "__main__":
    main()
