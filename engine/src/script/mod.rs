//! Rules as Rhai scripts: reading RULE, checking, lowering conditions to columnar programs, and the sandbox. The only
//! place that knows Rhai.

mod codes;
mod conclusion;
mod context;
mod diag;
#[cfg(test)]
mod equality;
mod functions;
mod interface;
mod library;
mod literal;
mod lower;
mod manifest;
mod natives;
mod program;
mod reading;
mod recover;
mod rule;
mod sandbox;
mod testing;
mod trace;
mod tree;
mod types;

pub use codes::{Code, by_name as code};
pub use conclusion::Conclusion;
pub use diag::{Diagnostic, Level, Place};
pub use interface::{Described, Family, definitions, interface};
pub use library::Libraries;
pub use manifest::{
    API, At, Explains, Manifest, OnMissing, Param, ParamValue, Severity, Shape, Take, When, WindowDecl,
};
pub use rule::{Compiled, MAX_SOURCE, Overrides, Rule, compile, compile_with};
pub use sandbox::Sandbox;
pub use testing::{Coverage, TestOutcome, Tested, run_tests, test_rule};

pub(crate) use context::Ctx;
#[cfg(test)]
pub(crate) use program::{Bin, Op, Prop};
pub(crate) use program::{LANES, Need, Numbers, Program, Scratch, Source};
pub(crate) use sandbox::Judged;
pub(crate) use trace::trace;
