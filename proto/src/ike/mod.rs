//! IKEv2 (RFC 7296) as a value: [`Endpoint`].
//!
//! | file | subject |
//! |---|---|
//! | `endpoint` | all IKE SAs: routing of datagrams, commands, timers, limits on strangers |
//! | `sa` | one IKE SA: stages, windows, what arrives and what leaves |
//! | `exchange/` | our requests, one file an exchange: what is sent, what an answer does |
//! | `respond` | the peer's requests |
//! | `signing` | waiting for a signature that is made elsewhere |
//! | `puzzle`, `solving` | puzzles against denial of service (RFC 8019): what they are, and waiting for a solution |
//! | `intermediate`, `int_auth` | additional key exchanges before IKE_AUTH (RFC 9242, 9370) |
//! | `succession` | rekeying the IKE SA: the new one inherits |
//! | `collision` | what crossing requests mean (RFC 7296 §2.8.1, §2.25) |
//! | `resume`, `ticket` | session resumption (RFC 5723): what is kept for it, and the tickets that we give |
//! | `redirect` | being sent to another gateway, and sending peers there (RFC 5685) |
//! | `mobike` | ends that move (RFC 4555) |
//! | `stream` | IKE SAs over TCP (RFC 9329) |
//! | `child` | Child SAs: install, activate, rekey, linger, remove |
//! | `qcd` | a peer that has lost its state (RFC 6290) |
//! | `auth_lifetime` | authenticating anew at the responder's wish (RFC 4478) |
//! | `parts` | a child that the peer takes in several Child SAs (RFC 7296 §2.9) |
//! | `jobs` | what an IKE SA means to do next |
//! | `proven` | what a peer has proven itself with, and whether that is still good |
//! | `keys`, `seal`, `frag`, `window`, `auth`, `cookie`, `nat`, `kex` | the parts they are made of |
//! | `export` | keys for decrypting captures, only on demand |
//! | `event`, `error`, `reason` | what comes out; who is wrong and which notify says so; failures by kind |
//!
//! Contract: call one `handle_*` (or `reconfigure`), drain [`Endpoint::poll_event`], drain [`Endpoint::poll_transmit`],
//! read [`Endpoint::poll_timeout`]; `now` never goes back. SAD updates come before the transmit that tells the peer.

pub mod auth;
mod auth_lifetime;
mod budget;
mod child;
pub mod collision;
pub mod cookie;
mod endpoint;
pub mod error;
pub mod event;
mod exchange;
pub mod export;
pub mod followup;
mod frag;
pub mod int_auth;
mod intermediate;
mod jobs;
pub mod kex;
pub mod keys;
pub mod mobike;
pub mod nat;
mod pairs;
mod parts;
mod ppk;
mod proven;
pub mod puzzle;
mod qcd;
mod reason;
mod redirect;
mod respond;
mod resume;
mod sa;
pub mod seal;
mod shared;
mod signing;
mod solving;
mod stream;
mod succession;
mod ticket;
pub mod window;

pub use endpoint::Endpoint;
pub use event::{
    ChildUp, Command, CommandError, Counters, Event, Failure, IkeSaStatus, IkeUp, Load, PeerCertificate, PuzzleTicket,
    SignRequest, SignTicket, SolveRequest, Tally, TimerKind, Transmit,
};
pub use reason::Reason;
