//! Segmentation and coalescing against a slow, straightforward reference; and no octets make either panic.
#![allow(clippy::unwrap_used)]

mod build;
mod coalesce;
mod robust;
mod segment;
