//! What an event is about.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The kind of a [`Subject`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum SubjectKind {
    /// The whole host.
    Host = 0,
    /// One logical CPU.
    Cpu = 1,
    /// One NUMA node.
    Node = 2,
    /// One control group.
    Cgroup = 3,
    /// One task (thread), by the pid it has in the host's pid namespace.
    Task = 4,
    /// A named device, interface, file system or other part.
    Device = 5,
}

impl SubjectKind {
    /// Every kind, in the order of its number.
    pub const ALL: [SubjectKind; 6] = [
        SubjectKind::Host,
        SubjectKind::Cpu,
        SubjectKind::Node,
        SubjectKind::Cgroup,
        SubjectKind::Task,
        SubjectKind::Device,
    ];

    /// The name used in rules and in a subject's text form.
    pub const fn name(self) -> &'static str {
        match self {
            SubjectKind::Host => "host",
            SubjectKind::Cpu => "cpu",
            SubjectKind::Node => "node",
            SubjectKind::Cgroup => "cgroup",
            SubjectKind::Task => "task",
            SubjectKind::Device => "device",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<SubjectKind> {
        SubjectKind::ALL.into_iter().find(|k| k.name() == name)
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an event is about. Text form: `host`, `cpu:3`, `node:0`, `cgroup:/path`, `task:4711`, `device:eth0`.
///
/// Cgroup paths start with `/` and are relative to the hierarchy's root, the same for v1 and v2. They and device names
/// are **untrusted**: escape them with [`crate::text::escape`] before a terminal or a log sees them. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The whole host.
    Host,
    /// A logical CPU by number.
    Cpu(u32),
    /// A NUMA node by number.
    Node(u32),
    /// A control group by path.
    Cgroup(Arc<str>),
    /// A task by pid (thread id) in the host's pid namespace.
    Task(u32),
    /// Anything with a name.
    Device(Arc<str>),
}

impl Subject {
    /// This subject's kind.
    pub const fn kind(&self) -> SubjectKind {
        match self {
            Subject::Host => SubjectKind::Host,
            Subject::Cpu(_) => SubjectKind::Cpu,
            Subject::Node(_) => SubjectKind::Node,
            Subject::Cgroup(_) => SubjectKind::Cgroup,
            Subject::Task(_) => SubjectKind::Task,
            Subject::Device(_) => SubjectKind::Device,
        }
    }

    /// A cgroup subject from a path.
    pub fn cgroup(path: impl Into<Arc<str>>) -> Subject {
        Subject::Cgroup(path.into())
    }

    /// The part after the colon: a path, number or name; empty for the host.
    pub fn name(&self) -> String {
        match self {
            Subject::Host => String::new(),
            Subject::Cpu(n) | Subject::Node(n) | Subject::Task(n) => n.to_string(),
            Subject::Cgroup(s) | Subject::Device(s) => s.to_string(),
        }
    }

    /// The subject of `kind` whose part after the colon is `name`.
    pub fn from_parts(kind: SubjectKind, name: &str) -> Result<Subject, ParseSubjectError> {
        let number = || name.parse::<u32>().map_err(|_| ParseSubjectError(format!("{}:{name}", kind.name())));
        Ok(match kind {
            SubjectKind::Host => Subject::Host,
            SubjectKind::Cpu => Subject::Cpu(number()?),
            SubjectKind::Node => Subject::Node(number()?),
            SubjectKind::Task => Subject::Task(number()?),
            SubjectKind::Cgroup if name.starts_with('/') => Subject::Cgroup(name.into()),
            SubjectKind::Cgroup => return Err(ParseSubjectError(format!("cgroup:{name}"))),
            SubjectKind::Device => Subject::Device(name.into()),
        })
    }

    /// The parent cgroup; `None` for the root and for subjects that are no cgroup.
    pub fn parent(&self) -> Option<Subject> {
        let Subject::Cgroup(path) = self else { return None };
        if path.as_ref() == "/" {
            return None;
        }
        Some(match path.rfind('/') {
            Some(0) | None => Subject::Cgroup("/".into()),
            Some(i) => Subject::Cgroup(path[..i].into()),
        })
    }

    /// Whether `self` is `other` or one of its ancestors; both must be cgroups.
    pub fn contains(&self, other: &Subject) -> bool {
        let (Subject::Cgroup(a), Subject::Cgroup(b)) = (self, other) else {
            return false;
        };
        a.as_ref() == "/"
            || b.strip_prefix(a.as_ref()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Host => f.write_str("host"),
            Subject::Cpu(n) => write!(f, "cpu:{n}"),
            Subject::Node(n) => write!(f, "node:{n}"),
            Subject::Task(n) => write!(f, "task:{n}"),
            Subject::Cgroup(s) => write!(f, "cgroup:{s}"),
            Subject::Device(s) => write!(f, "device:{s}"),
        }
    }
}

/// A text that is no subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseSubjectError(String);

impl fmt::Display for ParseSubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no subject: write host, cpu:N, node:N, task:PID, cgroup:/PATH or device:NAME",
            crate::text::escape(&self.0)
        )
    }
}

impl std::error::Error for ParseSubjectError {}

impl FromStr for Subject {
    type Err = ParseSubjectError;

    fn from_str(s: &str) -> Result<Subject, ParseSubjectError> {
        if s == "host" {
            return Ok(Subject::Host);
        }
        let unknown = || ParseSubjectError(s.to_string());
        let (kind, name) = s.split_once(':').ok_or_else(unknown)?;
        let kind = SubjectKind::from_name(kind).filter(|k| *k != SubjectKind::Host).ok_or_else(unknown)?;
        Subject::from_parts(kind, name)
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Subject, D::Error> {
        let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for s in ["host", "cpu:3", "node:0", "cgroup:/", "cgroup:/a/b:c", "task:4711", "device:eth0"] {
            assert_eq!(s.parse::<Subject>().unwrap().to_string(), s);
        }
        for s in ["", "hosts", "host:", "cpu:x", "cgroup:a", "task:-1", "pod:x"] {
            assert!(s.parse::<Subject>().is_err(), "{s}");
        }
    }

    #[test]
    fn ancestry_is_by_whole_components() {
        let c = Subject::cgroup;
        assert!(c("/a").contains(&c("/a/b")));
        assert!(c("/a").contains(&c("/a")));
        assert!(c("/").contains(&c("/a")));
        assert!(!c("/a").contains(&c("/ab")));
        assert!(!Subject::Host.contains(&c("/a")));
        assert_eq!(c("/a/b").parent(), Some(c("/a")));
        assert_eq!(c("/a").parent(), Some(c("/")));
        assert_eq!(c("/").parent(), None);
    }
}
