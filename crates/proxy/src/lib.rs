//! What the programs of the data plane share, and what is not a story of one of them.
//!
//! * [`World`]: who is where and which policies there are, fed by a [`Follower`] from a file, a text, or a control plane
//!   ([`control_plane`]);
//! * who we are and whom we trust: [`setup::identities`], revocation lists ([`crl`]), what a tunnel rests on ([`bond`]);
//! * new tunnels ([`dial`]) and their streams as one end of a relay ([`tunnel_io`], [`meter`]);
//! * the sections of configuration that are the same everywhere ([`settings`]), and what is set up from them ([`setup`]):
//!   log, traces, records, the ports of the program itself.

pub mod bond;
pub mod control_plane;
pub mod crl;
pub mod dial;
mod discovery;
mod live;
pub mod meter;
pub mod settings;
pub mod setup;
pub mod tunnel_io;
mod world;

pub use discovery::{Follower, News};
pub use live::{Alive, Live};
pub use world::{HOLD, World};
