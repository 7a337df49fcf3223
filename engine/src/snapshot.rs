//! What an engine hands on to the one after a restart: open findings and incidents, as plain data. Windows are not part
//! of it; they fill again, and until then everything is unknown and holds.

use serde::{Deserialize, Serialize};
use whystall_event::{Stamp, Subject};

use crate::finding::Phase;
use crate::script::Conclusion;

/// Open findings and incidents. Made by [`crate::Engine::snapshot`], taken by [`crate::Engine::restore`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// CLOCK_BOOTTIME when it was made; all other times but those called `wall` refer to this clock.
    pub(crate) boot_ns: u64,
    /// CLOCK_REALTIME when it was made.
    pub(crate) wall_ns: u64,
    pub(crate) findings: Vec<KeptFinding>,
    pub(crate) incidents: Vec<KeptIncident>,
}

impl Snapshot {
    /// A time of the earlier run on the clock of this one; what was before this boot becomes its beginning.
    pub(crate) fn moved(&self, boot_ns: u64, now: Stamp) -> u64 {
        let at = Stamp { boot_ns: self.boot_ns, wall_ns: self.wall_ns };
        let ago = now.wall_ns.saturating_sub(at.wall_at(boot_ns));
        now.boot_ns.saturating_sub(ago)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptFinding {
    pub(crate) rule: String,
    pub(crate) subject: Subject,
    pub(crate) phase: Phase,
    pub(crate) started_ns: u64,
    pub(crate) held_ns: u64,
    pub(crate) ticks: u64,
    pub(crate) conclusion: Option<Conclusion>,
    pub(crate) conclusions: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptIncident {
    pub(crate) id: String,
    pub(crate) seq: u32,
    pub(crate) opened_ns: u64,
    pub(crate) members: Vec<KeptMember>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptMember {
    pub(crate) rule: String,
    pub(crate) subject: Subject,
    pub(crate) started_ns: u64,
    pub(crate) ended_ns: Option<u64>,
    pub(crate) conclusion: Conclusion,
    pub(crate) withdrawn: bool,
}
