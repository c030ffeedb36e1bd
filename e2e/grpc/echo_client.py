"""A proxyless gRPC client of the echo: calls it through xds:/// and says in JSON what came of it.

Usage: GRPC_XDS_BOOTSTRAP=bootstrap.json echo_client.py TARGET, then tasks as JSON, one a line:
{"calls": 20, "metadata": {"x-version": "v2"}, "method": "Call"}; each is answered by a line: how often each status and each pod came.
"""

import json
import sys

import grpc
import grpc.experimental


def perform(channel, task):
    codes, pods, details = {}, {}, ""
    method = "/meshwork.test.Echo/" + task.get("method", "Call")
    call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
    metadata = list(task.get("metadata", {}).items())
    for _ in range(task["calls"]):
        try:
            answer = json.loads(call(b"", timeout=30, wait_for_ready=True, metadata=metadata))
            code = "OK"
            pods[answer["pod"]] = pods.get(answer["pod"], 0) + 1
        except grpc.RpcError as error:
            code, details = error.code().name, error.details()
        codes[code] = codes.get(code, 0) + 1
    return {"codes": codes, "pods": pods, "details": details}


def main():
    credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
    with grpc.secure_channel(sys.argv[1], credentials) as channel:
        for line in sys.stdin:
            print(json.dumps(perform(channel, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
