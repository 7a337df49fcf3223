//! Why a collector cannot work, or failed this time. Each names the path or part it is about.

use std::path::PathBuf;

/// A collector cannot work on this host at all; shown by `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}{}", .remedy.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
pub struct Unavailable {
    /// What is missing, for people, without a full stop.
    pub why: String,
    /// What would help, if anything: a command or a setting.
    pub remedy: Option<String>,
    /// The settings are wrong (the run must not start) rather than the host lacking something.
    pub bad_settings: bool,
}

impl Unavailable {
    /// The host lacks something.
    pub fn because(why: impl Into<String>) -> Unavailable {
        Unavailable { why: why.into(), remedy: None, bad_settings: false }
    }

    /// The collector's settings are wrong.
    pub fn settings(why: impl Into<String>) -> Unavailable {
        Unavailable { why: why.into(), remedy: None, bad_settings: true }
    }

    /// Adds what would help.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Unavailable {
        self.remedy = Some(remedy.into());
        self
    }
}

/// One pass failed. The collector stays and is tried again with backoff.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A file could not be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file's content is not what the kernel documents.
    #[error("{}: {what}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found, already escaped.
        what: String,
    },
    /// There is nothing to collect now, which is no failure (no such device, no cgroup yet).
    #[error("nothing to collect: {0}")]
    Nothing(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl CollectError {
    /// A failed read of `path`.
    pub fn read(path: impl Into<PathBuf>, source: std::io::Error) -> CollectError {
        CollectError::Read { path: path.into(), source }
    }

    /// Surprising content of `path`.
    pub fn parse(path: impl Into<PathBuf>, what: impl Into<String>) -> CollectError {
        CollectError::Parse { path: path.into(), what: what.into() }
    }
}
