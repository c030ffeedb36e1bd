//! A mesh's topology drawn as Mermaid text that GitHub renders.
//!
//! The control plane fills a [`Topology`] (from what runs, or from a directory of config) and [`mermaid()`] draws it.
//! Pure: no I/O, no async, no clock, no protobuf, no serde. So the types here have no JSON of their own: the control
//! plane answers `GET /api/v1/diagram` with the Mermaid text itself, and writes the JSON of `GET /api/v1/topology` from
//! its own types; a client that wants the picture asks for the text.
//!
//! A picture is bounded. At most 24 pods are drawn one by one; with more, the pods of one application and version share
//! a node; with more than 24 of those, the pods of a namespace do; with more than 24 namespaces, all but the 22 largest
//! share one. At most 60 lines of traffic are drawn, the busiest, and 12 services and outsiders. What was folded or left
//! out is said in the picture.
//!
//! The output is a function of the topology's content alone: the order in which pods and edges are listed does not
//! matter, so two pictures of one mesh differ only where the mesh does.

mod measure;
mod mermaid;
mod picture;
mod topology;

pub use mermaid::mermaid;
pub use topology::{
    ControlPlane, Edge, End, MeshType, Observability, Pod, Protocol, Proxy, Scale, Service, Sync, Topology,
    Traffic,
};
