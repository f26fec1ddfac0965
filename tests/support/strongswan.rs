//! strongSwan in a namespace: see [`super::peer`].

#[allow(unused_imports, reason = "each test binary uses its part")]
pub use super::peer::{StrongSwan, available};
