"""A control plane that is not ours: state of the world and incremental, resources from a JSON file.

    ads_files.py RESOURCES

RESOURCES is {"version": "1", "resources": [{"@type": ..., ...}]}; it is
read for every answer, and looked at ten times a second. Prints `listening PORT`, then a line for every request:
`TYPE ack|nack|ask VERSION NAMES [WHY]`.
"""

import json
import os
import queue
import sys
import threading
import time

import grpc
from concurrent import futures
from envoy.config.cluster.v3 import cluster_pb2  # noqa: F401
from envoy.config.endpoint.v3 import endpoint_pb2  # noqa: F401
from envoy.config.listener.v3 import listener_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2  # noqa: F401
from envoy.service.discovery.v3 import discovery_pb2  # noqa: F401
from google.protobuf import descriptor_pool, json_format, message_factory

path = sys.argv[1]
pool = descriptor_pool.Default()
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


def message(name):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


Request = message("envoy.service.discovery.v3.DiscoveryRequest")
Response = message("envoy.service.discovery.v3.DiscoveryResponse")
DeltaRequest = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")
DeltaResponse = message("envoy.service.discovery.v3.DeltaDiscoveryResponse")


def world():
    """Version, and (name, Any) of all resources by type."""
    with open(path) as file:
        content = json.load(file)
    resources = {}
    for one in content["resources"]:
        packed = json_format.ParseDict(one, message("google.protobuf.Any")(), descriptor_pool=pool)
        name = one.get("name") or one.get("clusterName") or one.get("cluster_name")
        resources.setdefault(one["@type"], []).append((name, packed))
    return content["version"], resources


def say(*words):
    print(*words, flush=True)


def events(requests):
    """What comes, and None ten times a second."""
    inbox = queue.Queue()

    def read():
        try:
            for request in requests:
                inbox.put(request)
        except Exception:
            pass
        inbox.put(False)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            event = inbox.get(timeout=0.1)
        except queue.Empty:
            event = None
        if event is False:
            return
        yield event


def told(request, names, version):
    kind = request.type_url.rsplit(".", 1)[-1]
    if request.HasField("error_detail"):
        say(kind, "nack", version, ",".join(names), request.error_detail.message)
    else:
        say(kind, "ack" if request.response_nonce else "ask", version, ",".join(names))


def stream(requests, context):
    wanted, sent, nonce = {}, {}, 0
    for event in events(requests):
        if event is not None:
            told(event, event.resource_names, event.version_info)
            wanted[event.type_url] = set(event.resource_names)
        version, resources = world()
        for url, names in wanted.items():
            chosen = [one for name, one in resources.get(url, []) if not names or name in names]
            key = (version, frozenset(names))
            if sent.get(url) == key or (names and not chosen):
                continue
            sent[url] = key
            nonce += 1
            yield Response(version_info=version, type_url=url, nonce=str(nonce), resources=chosen)


def delta(requests, context):
    wanted, sent, nonce = {}, {}, 0
    for event in events(requests):
        if event is not None:
            told(event, event.resource_names_subscribe, "")
            names = wanted.setdefault(event.type_url, set())
            names.update(event.resource_names_subscribe)
            names.difference_update(event.resource_names_unsubscribe)
            sent.setdefault(event.type_url, {}).update(event.initial_resource_versions)
        version, resources = world()
        for url, names in wanted.items():
            has = sent[url]
            there = {name: one for name, one in resources.get(url, []) if not names or name in names}
            new = {name: one for name, one in there.items() if has.get(name) != version}
            gone = [name for name in has if name not in there]
            if not new and not gone:
                continue
            nonce += 1
            answer = DeltaResponse(type_url=url, nonce=str(nonce), removed_resources=gone)
            for name, one in new.items():
                answer.resources.add(name=name, version=version, resource=one)
                has[name] = version
            for name in gone:
                del has[name]
            yield answer


handlers = {
    "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
        stream, request_deserializer=Request.FromString, response_serializer=lambda m: m.SerializeToString()
    ),
    "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
        delta, request_deserializer=DeltaRequest.FromString, response_serializer=lambda m: m.SerializeToString()
    ),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
port = server.add_insecure_port(os.environ.get("LISTEN", "127.0.0.1:0"))
server.start()
say("listening", port)
while True:
    time.sleep(3600)
