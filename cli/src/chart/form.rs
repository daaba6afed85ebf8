//! Forms of texts, for the schema: what a program would refuse at its start is refused before it is installed. Without look-ahead,
//! which Helm's regular expressions lack.

/// A duration, as `1h30m`: units descend.
pub(super) const SPAN: &str =
    "^([0-9]+h([0-9]+m)?([0-9]+s)?([0-9]+ms)?|[0-9]+m([0-9]+s)?([0-9]+ms)?|[0-9]+s([0-9]+ms)?|[0-9]+ms)$";
/// A duration, or nothing.
pub(super) const SPAN_OR_NONE: &str = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
/// A block of addresses. Bits beyond the prefix need arithmetic.
pub(super) const CIDR: &str =
    "^([0-9]{1,3}(\\.[0-9]{1,3}){3}(/([0-9]|[12][0-9]|3[0-2]))?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?)$";
/// A name by RFC 1123, as of namespaces.
pub(super) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// The same, or nothing.
pub(super) const LABEL_OR_NONE: &str = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$";
/// A name of several labels, as of Secrets.
pub(super) const NAME: &str = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";
/// A domain.
pub(super) const DOMAIN: &str = "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*\\.?$";
/// A trust domain (SPIFFE ID 2.1).
pub(super) const TRUST_DOMAIN: &str = "^[a-z0-9._-]+$";
/// An id that parts of names are made of.
pub(super) const ID: &str = "^[A-Za-z0-9._-]+$";
/// The same, or nothing.
pub(super) const ID_OR_NONE: &str = "^[A-Za-z0-9._-]*$";
/// `namespace/name`.
pub(super) const ACCOUNT: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";
/// An absolute path.
pub(super) const PATH: &str = "^/[^\"\\\\\\s]*$";
/// What stands before the last part of an image's name.
pub(super) const REPOSITORY: &str = "^[A-Za-z0-9[][^\"\\\\\\s@]*$";
/// A tag, or nothing.
pub(super) const TAG: &str = "^([A-Za-z0-9_][A-Za-z0-9._-]*(@sha256:[0-9a-f]{64})?)?$";
/// The address of a server, or nothing.
pub(super) const SERVER: &str = "^(https?://[^\"\\\\\\s]+)?$";
