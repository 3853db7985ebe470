//! The command `pgweir`.
fn main() {}
