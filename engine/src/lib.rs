//! Windows, rules, findings and incidents.

pub mod subjects;
pub mod window;
