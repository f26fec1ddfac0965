//! IP-TFS (RFC 9347) on the way out (`bundle`) and in (`unbundle`): inner packets gathered into outer ones, and outer ones taken
//! apart.
//!
//! Outbound, a packet is copied twice: from the TUN's buffer into the queue, and from there to where it is sealed. Inbound, what
//! came whole and in its turn stays where it was opened; only what was cut or overtaken is copied.
//! Nothing here is called for a pair without it.

mod bundle;
mod unbundle;

pub(super) use bundle::{Bundle, take_up};
pub(super) use unbundle::Unbundle;

use super::table::ChildSa;
use landbridge_proto::esp::aggfrag::{Control, Header};
use landbridge_proto::policy::sad::ChildSaEntry;
use std::sync::Mutex;

/// Octets before the data blocks that an interface's MTU leaves room for: the longer header, which the peer may ask for
/// whatever our own mode is, and which our packets then have.
pub(crate) const USUAL_HEADER: usize = Header::CONGESTION;

/// What both owners of a pair know of the path, where one of the ends goes by it.
pub(super) fn control(entry: &ChildSaEntry) -> Option<Mutex<Control>> {
    let agreed = entry.aggfrag.as_ref().filter(|agreed| agreed.informs())?;
    Some(Mutex::new(Control::new(agreed.iptfs.reorder_window.into())))
}

/// The pair's way changed, perhaps: what was learnt of the old one is not true of another.
pub(super) fn look_at_way(old: &ChildSa, new: &ChildSa) {
    let way = |child: &ChildSa| (child.path.local.ip(), child.path.remote.ip());
    if way(old) != way(new)
        && let Some(mut control) = new.pair.control()
    {
        control.moved();
    }
}
