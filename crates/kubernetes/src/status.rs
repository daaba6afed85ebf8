//! Conditions and Events: writing the status of objects.
