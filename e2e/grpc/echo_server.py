"""A gRPC server without a proxy, which takes certificates and policy from xDS: says who answered.

Usage: GRPC_XDS_BOOTSTRAP=bootstrap.json echo_server.py ADDRESS NAME
"""

import json
import sys
from concurrent import futures

import grpc


def main():
    address, name = sys.argv[1:]

    def call(request, context):
        identity = [i.decode() for i in context.peer_identities() or []]
        return json.dumps({"pod": name, "caller": identity}).encode()

    server = grpc.server(futures.ThreadPoolExecutor(4), xds=True)
    handler = grpc.unary_unary_rpc_method_handler(call)
    methods = {"Call": handler, "Refund": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("meshwork.test.Echo", methods),))
    credentials = grpc.xds_server_credentials(grpc.insecure_server_credentials())
    server.add_secure_port(address, credentials)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
