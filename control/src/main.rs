//! `culvert-control`.

fn main() {}
