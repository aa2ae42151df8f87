//! vila
fn main() {}
