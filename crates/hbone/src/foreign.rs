//! Errors of the HTTP/2 library that another library passes on. Whoever uses that one asks here what they mean, so that the
//! library's types stay in this crate.

use std::error::Error;

/// Whether a peer said that it did nothing with a request (REFUSED_STREAM, RFC 9113 8.7), so that it may be sent again.
///
/// `error` is the library's own error, not one around it: mostly the other one's [`Error::source`].
pub fn is_unprocessed(error: &(dyn Error + 'static)) -> bool {
    let of_peer = error.downcast_ref::<h2::Error>().filter(|e| e.is_remote() && e.is_reset());
    of_peer.is_some_and(|e| e.reason() == Some(h2::Reason::REFUSED_STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_peer_says_counts() {
        // What a peer says cannot be made by hand; the waypoint's tests have one that says it.
        assert!(!is_unprocessed(&h2::Error::from(h2::Reason::REFUSED_STREAM)));
        assert!(!is_unprocessed(&std::io::Error::other("refused stream before performing any application logic")));
    }
}
