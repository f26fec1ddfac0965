//! strongSwan in a namespace: see [`super::peer`].

pub use super::peer::{StrongSwan, available};
