//! The one form of a path and of a host that is compared with policies and routes, and sent on.
//!
//! Two readers of one request must not see two different things: whatever can be written in several ways is brought to
//! one, and what cannot be read in one way only is refused (status 400).

mod host;
mod path;

pub use host::{Authority, HostError, authority, host};
pub use path::{Encoded, PathError, path};

pub(super) use path::{escape_pattern, unescape};
