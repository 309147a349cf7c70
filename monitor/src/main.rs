//! The `portwatch` command.

fn main() {}
