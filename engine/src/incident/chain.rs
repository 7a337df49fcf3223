//! Which finding of an incident is the root, and the order from it to the last symptom.

use std::cmp::Reverse;

use super::member::Member;

/// Findings whose connections are looked at; the cost grows with the square, and a flood of symptoms tells no more.
const MAX_LINKED: usize = 512;

/// An incident's root and all its findings in causal order, as indices.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) root: usize,
    /// Begins with the root. What the root does not explain comes last.
    pub(super) order: Vec<usize>,
}

/// Who leads to whom, directly or through others: a bit for each pair.
struct Reach {
    words: usize,
    bits: Vec<u64>,
}

impl Reach {
    fn of(n: usize, edge: impl Fn(usize, usize) -> bool) -> Reach {
        let words = n.div_ceil(64);
        let mut r = Reach { words, bits: vec![0; words * n] };
        for a in 0..n {
            for b in (0..n).filter(|&b| a != b && edge(a, b)) {
                r.bits[a * words + b / 64] |= 1 << (b % 64);
            }
        }
        for via in 0..n {
            let row: Vec<u64> = r.bits[via * words..(via + 1) * words].to_vec();
            if row.iter().all(|w| *w == 0) {
                continue;
            }
            for a in (0..n).filter(|&a| a != via) {
                if r.get(a, via) {
                    r.bits[a * words..(a + 1) * words].iter_mut().zip(&row).for_each(|(x, y)| *x |= y);
                }
            }
        }
        r
    }

    fn get(&self, from: usize, to: usize) -> bool {
        self.bits[from * self.words + to / 64] >> (to % 64) & 1 == 1
    }

    /// Strictly before: not in a cycle with it.
    fn before(&self, a: usize, b: usize) -> bool {
        self.get(a, b) && !self.get(b, a)
    }
}

/// `None` only for no findings.
///
/// The root is a finding that no other explains; in a cycle of explanations, one that nothing outside of it explains,
/// and the earliest of the cycle. Of several, the one that explains most leads, then the most severe, the surest, the
/// earliest.
pub(super) fn chain(members: &[Member]) -> Option<Chain> {
    // Findings that could explain something come first, so that a flood of symptoms does not push them out.
    let mut all: Vec<usize> = (0..members.len()).collect();
    all.sort_by_key(|&i| (members[i].manifest.explains.is_empty(), members[i].order()));
    let (linked, flood) = all.split_at(all.len().min(MAX_LINKED));
    let n = linked.len();
    let of = |i: usize| &members[linked[i]];
    let reach = Reach::of(n, |a, b| of(a).explains(of(b)));
    let explains = |i: usize| (0..n).filter(|&j| reach.before(i, j)).count();
    let key = |i: usize| {
        let m = of(i);
        let sure = m.confidence(!m.conclusion.ruled_out.is_empty());
        (Reverse(explains(i)), Reverse(m.severity()), Reverse(sure), m.order())
    };
    let unexplained = |i: &usize| (0..n).all(|j| !reach.before(j, *i));
    let root = (0..n).filter(unexplained).map(|i| (key(i), i)).min().map(|(_, i)| i)?;
    // Whoever is led to by something has more before it than that has, so this count orders causes before effects.
    let depth = |i: usize| (0..n).filter(|&j| reach.before(j, i)).count();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_cached_key(|&i| {
        let (rule_start, rule, subject) = of(i).order();
        (i != root, !reach.get(root, i), depth(i), rule_start, rule.to_string(), subject.clone())
    });
    let order = order.into_iter().map(|i| linked[i]).chain(flood.iter().copied()).collect();
    Some(Chain { root: linked[root], order })
}
