"""A gRPC server and its client, neither of which knows of a mesh.

    grpc_echo.py serve PORT           answers test.Echo/Say with what it was told, and streams it back thrice
    grpc_echo.py call TARGET WORD     calls both methods and prints the answers as JSON
"""

import json
import sys
from concurrent import futures

import grpc


def say(request, context):
    return request


def thrice(request, context):
    for _ in range(3):
        yield request


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Thrice": grpc.unary_stream_rpc_method_handler(thrice),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def call(target, word):
    with grpc.insecure_channel(target) as channel:
        try:
            one = channel.unary_unary("/test.Echo/Say")(word.encode(), timeout=30).decode()
            many = [m.decode() for m in channel.unary_stream("/test.Echo/Thrice")(word.encode(), timeout=30)]
            print(json.dumps({"one": one, "many": many}))
        except grpc.RpcError as error:
            print(json.dumps({"code": error.code().name, "details": error.details()}))
            sys.exit(1)


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    call(sys.argv[2], sys.argv[3])
