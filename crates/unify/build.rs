//! Only here so that the build dependencies (features of proc-macro helpers) count.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
