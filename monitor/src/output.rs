//! tmp
pub mod ecs;
#[cfg(test)]
mod examples;
