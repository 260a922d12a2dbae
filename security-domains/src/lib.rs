//! The configuration language: ports, domains, VMs, services, chains; findings instead of failures.
//!
//! [`load`] reads one TOML file. Either everything in it is legal and a [`Config`] comes back with every
//! name resolved to an id, or [`Findings`] come back: all of them, each with the place in the file, the
//! rule, what was found and the nearest legal value.
//!
//! The tables of keys ([`key::Table`]) are the one description of the language: the reader checks by them,
//! and [`schema`] and the table in the README are printed from them.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod book;
mod chain;
mod config;
mod cursor;
mod domain;
mod edge;
mod edit;
mod endpoint;
mod finding;
mod flow;
pub mod form;
mod hidden;
mod ids;
pub mod key;
mod limit;
mod mac;
mod manual;
mod names;
mod nearest;
mod need;
mod nf_settings;
mod nic;
mod passage;
mod policy;
mod port;
mod prefix;
mod process;
mod rule;
mod schema;
mod scope;
mod service;
mod source;
mod switch;
mod vm;
mod word;

pub use access::{Access, Pins};
pub use chain::Chain;
pub use config::{Config, EndpointListing, Owner, load, load_text, parse, parse_bytes, parse_text_as};
pub use domain::{Domain, PAGE_BYTES, Pages};
pub use edge::Edge;
pub use edit::{Edit, EditError, edit, has_names, kinds, tables};
pub use endpoint::Endpoint;
pub use finding::{Finding, Findings, Kind};
pub use flow::{Flows, PortRange};
pub use hidden::HiddenDomain;
pub use ids::{ChainId, DomainId, EndpointId, PortId, ProcessId, ServiceId, VmId};
pub use limit::Limit;
pub use mac::Mac;
pub use manual::key_tables;
pub use nearest::near_enough;
pub use need::{BURST_BUFFERS, CROSSING_BUFFERS, DomainNeed, LINE_BUFFERS, NIC_BUFFERS, PortTerm};
pub use nic::{Nic, Withheld};
pub use policy::{Policy, PolicyAction, Violation};
pub use port::{Device, FRAME_HEADER_BYTES, HEADROOM_BYTES, Port};
pub use prefix::Prefix;
pub use process::Process;
pub use rule::{Rule, RuleAction};
pub use schema::{schema, schema_of};
pub use service::{Service, Target, WhenDead};
pub use switch::{Idle, Switch};
pub use vm::{GuestMemory, Vm, VmEndpoint, VmFile};
