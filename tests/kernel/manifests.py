# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects as files in a manifest folder.

A Service and its EndpointSlice are one file, written whole and renamed into place, so a reader
never sees half of a change.
"""

import dataclasses
import json
import os

from kernel_state import endpoint_text, virtual_server_key

NODE_NAME = "node1"
SCHEDULER = "fairlead.io/scheduler"
WEIGHTS = "fairlead.io/weights"
DRAIN_TIMEOUT = "fairlead.io/drain-timeout"


@dataclasses.dataclass(frozen=True)
class Port:
    number: int
    target: int
    protocol: str = "TCP"
    name: str = ""
    node_port: int = 0


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A pod in a slice, and its conditions."""

    pod: object
    ready: bool = True
    serving: bool = True
    terminating: bool = False


class Service:
    """One Service of one family. Change its fields, `publish()`, and the folder says so."""

    def __init__(
        self,
        folder,
        family,
        name,
        namespace,
        *,
        address,
        ports=(Port(80, 8080),),
        affinity_seconds=0,
        annotations=None,
        external_ips=(),
    ):
        self.family = family
        self.name = name
        self.namespace = namespace
        self.address = address
        self.ports = list(ports)
        self.affinity_seconds = affinity_seconds
        self.annotations = dict(annotations or {})
        self.external_ips = list(external_ips)
        self.endpoints = []
        self._path = os.path.join(folder, f"{namespace}.{name}.json")

    def __str__(self):
        return f"{self.namespace}/{self.name}"

    @property
    def port(self):
        """Number of the first port; most services of a test have just the one."""
        return self.ports[0].number

    def publish(self, endpoints=None):
        """Writes the service, with these endpoints (pods that are ready, or `Endpoint`s) from now
        on, or with those it has."""
        if endpoints is not None:
            self.endpoints = [e if isinstance(e, Endpoint) else Endpoint(e) for e in endpoints]
        items = {"apiVersion": "v1", "kind": "List", "items": [self._service(), self._slice()]}
        unfinished = self._path + ".tmp"  # a name that is no manifest's
        with open(unfinished, "w") as file:
            json.dump(items, file, indent=1)
        os.rename(unfinished, self._path)
        return self

    def delete(self):
        os.unlink(self._path)

    def expected(self):
        """Real servers that must take new connections, for each virtual server on ClusterIP."""
        return {
            virtual_server_key(self.address, port.number, port.protocol): {
                endpoint_text(endpoint.pod.address(self.family), port.target)
                for endpoint in self.endpoints
                if endpoint.ready and not endpoint.terminating
            }
            for port in self.ports
        }

    def _metadata(self, name, **more):
        # The uid is the Service's: the same after a rewrite of the file, as in a cluster.
        uid = f"{self.namespace}-{name}"
        return {"name": name, "namespace": self.namespace, "uid": uid, **more}

    def _service(self):
        node_ports = any(port.node_port for port in self.ports)
        spec = {
            "type": "NodePort" if node_ports else "ClusterIP",
            "clusterIP": self.address,
            "clusterIPs": [self.address],
            "ipFamilies": [self._address_type()],
            "ipFamilyPolicy": "SingleStack",
            "ports": [_service_port(port) for port in self.ports],
        }
        if self.affinity_seconds:
            spec["sessionAffinity"] = "ClientIP"
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": self.affinity_seconds}}
        if self.external_ips:
            spec["externalIPs"] = self.external_ips
        metadata = self._metadata(self.name, annotations=self.annotations)
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}

    def _slice(self):
        labels = {"kubernetes.io/service-name": self.name}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": self._metadata(f"{self.name}-{self.family}", labels=labels),
            "addressType": self._address_type(),
            "ports": [
                {"name": port.name, "port": port.target, "protocol": port.protocol}
                for port in self.ports
            ],
            "endpoints": [
                {
                    "addresses": [endpoint.pod.address(self.family)],
                    "nodeName": NODE_NAME,
                    "conditions": {
                        "ready": endpoint.ready,
                        "serving": endpoint.serving,
                        "terminating": endpoint.terminating,
                    },
                }
                for endpoint in self.endpoints
            ],
        }

    def _address_type(self):
        return "IPv6" if self.family.name == "ipv6" else "IPv4"


def _service_port(port):
    fields = {"port": port.number, "targetPort": port.target, "protocol": port.protocol}
    if port.name:
        fields["name"] = port.name
    if port.node_port:
        fields["nodePort"] = port.node_port
    return fields
