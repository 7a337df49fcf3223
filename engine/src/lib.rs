//! Windows, rules, findings and incidents.
