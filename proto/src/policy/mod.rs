//! RFC 4301's databases as values: which traffic ([`selector`], [`spd`]), which peer ([`pad`]), which algorithms
//! ([`proposal`]), which SAs ([`sad`], [`spi`]), and the connection that ties them together ([`connection`]),
//! and what it takes to change it ([`change`]).

pub mod aggfrag;
pub mod change;
pub mod connection;
pub mod id;
pub mod pad;
pub mod proposal;
pub mod sad;
pub mod selector;
pub mod spd;
pub mod spi;
