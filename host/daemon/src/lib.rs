//! Warren: a host for untrusted inference code. See ARCHITECTURE.md for the way of a job.

pub mod artifacts;
pub mod broker;
pub mod cancel;
pub mod config;
pub mod connect;
pub mod digest;
pub mod duplicates;
pub mod folder;
pub mod health;
pub mod host;
pub mod intake;
pub mod job;
pub mod losses;
pub mod metrics;
pub mod oci;
pub mod plugin;
pub mod relay;
pub mod sandbox;
pub mod schedule;
pub mod settle;
pub mod topology;
pub mod wire;
