"""A control plane that knows nothing of Meshwork: ADS, delta and state of the world, of what a file says.

    ads.py PORT STATE LOG

STATE is JSON: type URLs with the resources of that type, by name. Whenever it changes, what changed is sent. LOG gets a
line of JSON for every message of a client: what it asks for, and whether it takes (ack) or refuses (nack) what it got.
"""

import hashlib
import json
import os
import queue
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

PREFIX = "type.googleapis.com/"
# In the order that makes before break: clusters before what names them.
TYPES = {
    PREFIX + "envoy.config.cluster.v3.Cluster": cluster_pb2.Cluster,
    PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment": endpoint_pb2.ClusterLoadAssignment,
    PREFIX + "envoy.config.listener.v3.Listener": listener_pb2.Listener,
    PREFIX + "envoy.config.route.v3.RouteConfiguration": route_pb2.RouteConfiguration,
    PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret": secret_pb2.Secret,
}
# Types of which everything is sent to who names nothing.
WILDCARD = {url for url in TYPES if url.endswith((".Cluster", ".Listener"))}


class World:
    """What the file says, and who is to be told of changes."""

    def __init__(self, state, log):
        self.path, self.log = state, open(log, "a", buffering=1)
        self.lock = threading.Lock()
        self.streams, self.resources, self.read_at = [], {}, None

    def note(self, **event):
        with self.lock:
            self.log.write(json.dumps(event) + "\n")

    def watch(self):
        while True:
            changed = os.stat(self.path).st_mtime_ns
            if changed != self.read_at:
                self.read_at = changed
                with open(self.path) as file:
                    resources = read(json.load(file))
                with self.lock:
                    self.resources = resources
                    streams = list(self.streams)
                for stream in streams:
                    stream.put(None)
            time.sleep(0.03)


def read(state):
    """Resources by type and name: an Any each, and the version of its bytes."""
    resources = {}
    for url, named in state.items():
        for name, fields in named.items():
            packed = Any()
            message = json_format.ParseDict(fields, TYPES[url]())
            packed.Pack(message, deterministic=True)
            version = hashlib.sha256(packed.value).hexdigest()[:8]
            resources.setdefault(url, {})[name] = (packed, version)
    return resources


class Stream:
    """One client's stream: its subscriptions and what it has."""

    def __init__(self, world, protocol):
        self.world, self.protocol = world, protocol
        self.wanted, self.has, self.count = {}, {}, 0

    def serve(self, requests):
        events = queue.Queue()

        def forward():
            try:
                for request in requests:
                    events.put(request)
            except grpc.RpcError:
                pass
            events.put(StopIteration)

        threading.Thread(target=forward, daemon=True).start()
        with self.world.lock:
            self.world.streams.append(events)
        try:
            while (event := events.get()) is not StopIteration:
                if event is not None:
                    self.hear(event)
                for url in TYPES:
                    response = self.due(url)
                    if response is not None:
                        yield response
        finally:
            with self.world.lock:
                self.world.streams.remove(events)

    def hear(self, request):
        url = request.type_url
        event = {"protocol": self.protocol, "type": url, "node": request.node.id}
        if request.HasField("error_detail"):
            event |= {"event": "nack", "error": request.error_detail.message}
        elif request.response_nonce:
            event |= {"event": "ack", "nonce": request.response_nonce}
        else:
            event |= {"event": "request"}
        self.subscribe(url, request)
        self.world.note(**event, wanted=sorted(self.wanted[url]))

    def matches(self, url, name):
        wanted = self.wanted[url]
        return name in wanted or "*" in wanted or (not wanted and url in WILDCARD)

    def now(self, url):
        with self.world.lock:
            known = self.world.resources.get(url, {})
        return {name: known[name] for name in known if self.matches(url, name)}


class Sotw(Stream):
    def subscribe(self, url, request):
        self.wanted[url] = set(request.resource_names)

    def due(self, url):
        if url not in self.wanted:
            return None
        now = self.now(url)
        versions = {name: version for name, (_, version) in now.items()}
        if self.has.get(url) == versions or (not now and url not in WILDCARD):
            return None
        self.has[url] = versions
        self.count += 1
        return discovery_pb2.DiscoveryResponse(
            type_url=url,
            version_info=str(self.count),
            nonce=str(self.count),
            resources=[packed for packed, _ in now.values()],
        )


class Delta(Stream):
    def subscribe(self, url, request):
        wanted = self.wanted.setdefault(url, set())
        wanted |= set(request.resource_names_subscribe)
        wanted -= set(request.resource_names_unsubscribe)
        have = self.has.setdefault(url, dict(request.initial_resource_versions))
        for name in request.resource_names_unsubscribe:
            have.pop(name, None)

    def due(self, url):
        if url not in self.wanted:
            return None
        now, have = self.now(url), self.has[url]
        changed = {name: held for name, held in now.items() if have.get(name) != held[1]}
        removed = [name for name in have if name not in now]
        if not changed and not removed:
            return None
        self.has[url] = {name: version for name, (_, version) in now.items()}
        self.count += 1
        return discovery_pb2.DeltaDiscoveryResponse(
            type_url=url,
            system_version_info=str(self.count),
            nonce=str(self.count),
            resources=[
                discovery_pb2.Resource(name=name, version=version, resource=packed)
                for name, (packed, version) in changed.items()
            ],
            removed_resources=removed,
        )


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, world):
        self.world = world

    def StreamAggregatedResources(self, requests, context):
        yield from Sotw(self.world, "sotw").serve(requests)

    def DeltaAggregatedResources(self, requests, context):
        yield from Delta(self.world, "delta").serve(requests)


def main():
    port, state, log = sys.argv[1:]
    world = World(state, log)
    server = grpc.server(futures.ThreadPoolExecutor(16))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Ads(world), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    world.watch()


main()
