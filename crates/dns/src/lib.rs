//! The DNS proxy: which names the mesh answers, and forwarding of all others.
