//! A real Kubernetes of two nodes on this machine, and tests on it.
