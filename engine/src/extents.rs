//! For which rows of a table a condition can hold at all, told from the greatest and least values of short stretches of
//! its windows' columns. Most rules are far from their line for most subjects; rules that read the same window share
//! what was found, so that many rules cost little more than one.

use crate::script::{LANES, Need, Source};
use crate::window::WindowId;

/// Rows of a stretch.
const STRETCH: usize = 32;
const _: () = assert!(LANES.is_multiple_of(STRETCH));

/// The greatest and least known values of a stretch; of one without any, infinities of the wrong sign.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Extent {
    least: f64,
    most: f64,
}

impl Extent {
    fn of(values: &[f64]) -> Extent {
        // Several lanes, because a single chain of comparisons waits for each; comparisons leave out what is unknown.
        const WIDE: usize = 8;
        let (mut least, mut most) = ([f64::INFINITY; WIDE], [f64::NEG_INFINITY; WIDE]);
        let (chunks, rest) = values.as_chunks::<WIDE>();
        let mut take = |i: usize, x: f64| {
            least[i] = if x < least[i] { x } else { least[i] };
            most[i] = if x > most[i] { x } else { most[i] };
        };
        chunks.iter().for_each(|c| c.iter().enumerate().for_each(|(i, x)| take(i, *x)));
        rest.iter().enumerate().for_each(|(i, x)| take(i, *x));
        Extent {
            least: least.into_iter().fold(f64::INFINITY, f64::min),
            most: most.into_iter().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// The extents of windows' columns, each computed when a rule first asks for it in a tick.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    tick: u64,
    /// By window: the tick of its extents, and these.
    columns: Vec<(u64, Vec<Extent>)>,
}

impl Extents {
    /// The columns have new values.
    pub(crate) fn expire(&mut self) {
        self.tick += 1;
    }

    fn prepare(&mut self, id: WindowId, column: &[f64]) {
        let i = id.0 as usize;
        if self.columns.len() <= i {
            self.columns.resize_with(i + 1, Default::default);
        }
        let (tick, extents) = &mut self.columns[i];
        if *tick != self.tick || extents.len() != column.len().div_ceil(STRETCH) {
            *tick = self.tick;
            extents.clear();
            extents.extend(column.chunks(STRETCH).map(Extent::of));
        }
    }

    fn get(&self, id: WindowId) -> &[Extent] {
        self.columns.get(id.0 as usize).map_or(&[], |(_, e)| e)
    }
}

/// Where one rule's condition may hold.
#[derive(Debug)]
pub(crate) struct Prospects<'a> {
    /// A comparison of a value that all rows share does not hold.
    never: bool,
    needs: Vec<(Need, &'a [Extent])>,
    wake: Option<&'a [Extent]>,
}

impl<'a> Prospects<'a> {
    /// For a condition with these `needs`, judged only where the window `wake` is not zero. `sources` and `ids` are the
    /// rule's windows.
    pub(crate) fn new(
        needs: &[Need],
        wake: Option<usize>,
        sources: &[Source<'_>],
        ids: &[Option<WindowId>],
        extents: &'a mut Extents,
    ) -> Prospects<'a> {
        // A column of the subjects judged, as windows of other subjects have other rows.
        let column = |window: usize| match (sources.get(window), ids.get(window)) {
            (Some(Source::Columns { value, .. }), Some(Some(id))) => Some((*id, *value)),
            _ => None,
        };
        for (id, values) in needs.iter().map(|n| n.window as usize).chain(wake).filter_map(column) {
            extents.prepare(id, values);
        }
        let extents: &'a Extents = extents;
        let shared = |window: usize| match sources.get(window) {
            Some(Source::Scalar(numbers)) => Some(numbers.value),
            _ => None,
        };
        let never = needs.iter().any(|n| shared(n.window as usize).is_some_and(|x| !n.holds(x)))
            || wake.and_then(shared).is_some_and(|x| x.is_nan() || x == 0.0);
        let own = |n: &Need| column(n.window as usize).map(|(id, _)| (*n, extents.get(id)));
        Prospects {
            never,
            needs: needs.iter().filter_map(own).collect(),
            wake: wake.and_then(column).map(|(id, _)| extents.get(id)),
        }
    }

    fn may(&self, stretch: usize) -> bool {
        // What lies beyond a column is unknown.
        self.wake.is_none_or(|w| w.get(stretch).is_some_and(|e| e.most > 0.0 || e.least < 0.0))
            && self.needs.iter().all(|(need, extents)| {
                let of = |e: &Extent| need.holds(if need.above { e.most } else { e.least });
                extents.get(stretch).is_some_and(of)
            })
    }

    /// The next rows among which the condition may hold: from `from`, which is 0 or the end of the rows before, at most
    /// [`LANES`] and below `n`.
    pub(crate) fn next(&self, from: usize, n: usize) -> Option<std::ops::Range<usize>> {
        let mut start = from;
        while start < n && (self.never || !self.may(start / STRETCH)) {
            start += STRETCH;
        }
        let mut end = start + STRETCH;
        while end < n && end - start < LANES && self.may(end / STRETCH) {
            end += STRETCH;
        }
        (start < n).then(|| start..end.min(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Bin, Numbers, Op, Program, Prop, Scratch};
    use proptest::prelude::*;

    fn program(code: Vec<Op>) -> Program {
        Program { code, slots: 1, depth: 4 }
    }

    /// A comparison of window `window`.
    fn term() -> impl Strategy<Value = Vec<Op>> {
        let op = prop::sample::select(vec![Bin::Gt, Bin::Ge, Bin::Lt, Bin::Le, Bin::Eq, Bin::Ne, Bin::Min]);
        let prop = prop::sample::select(vec![Prop::Value, Prop::Ms, Prop::Pct, Prop::Sigma, Prop::Known]);
        (0..3u16, prop, prop::sample::select(vec![1.0, 1e6]), op, -3..4i32).prop_map(
            |(window, prop, scale, op, line)| {
                vec![Op::Read { window, prop, scale }, Op::BinConst(op, f64::from(line))]
            },
        )
    }

    fn condition() -> impl Strategy<Value = Program> {
        let join = prop::sample::select(vec![Bin::And, Bin::And, Bin::Or]);
        (term(), prop::collection::vec((term(), join), 0..3), any::<bool>(), any::<bool>()).prop_map(
            |(first, rest, not, keep)| {
                let mut code = first;
                for (term, join) in rest {
                    code.extend(term);
                    code.push(Op::Bin(join));
                }
                if keep {
                    code.extend([Op::Set(0), Op::Slot(0), Op::MaskBy(0)]);
                }
                if not {
                    code.push(Op::Not);
                }
                program(code)
            },
        )
    }

    fn column() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            8 => Just(0.0),
            1 => Just(f64::NAN),
            1 => (-4..5i32).prop_map(f64::from),
            1 => Just(4e6),
        ];
        // Long stretches alike, so that some can be passed over.
        prop::collection::vec((value, 1..90usize), 0..20)
            .prop_map(|runs| runs.into_iter().flat_map(|(x, n)| std::iter::repeat_n(x, n)).collect())
    }

    fn rows(p: &Program, sources: &[Source<'_>], ranges: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
        let mut scratch = Scratch::default();
        let mut out = Vec::new();
        for (from, to) in ranges {
            let result = p.run(sources, from, to - from, &mut scratch);
            out.extend(result.iter().zip(from..to).filter(|(x, _)| **x == 1.0).map(|(_, row)| row));
        }
        out
    }

    /// Start and end of each stretch of rows that is judged.
    fn all(prospects: &Prospects<'_>, n: usize) -> Vec<(usize, usize)> {
        let mut from = 0;
        std::iter::from_fn(|| {
            let r = prospects.next(from, n)?;
            from = r.end;
            Some((r.start, r.end))
        })
        .collect()
    }

    proptest! {
        #[test]
        fn nothing_true_is_passed_over(p in condition(), a in column(), b in column(), scalar in -4..5i32, n in 0..1500usize) {
            let of = |value| Source::Columns { value, dev: &[], now: &[] };
            let one = Numbers { value: f64::from(scalar), ..Numbers::UNKNOWN };
            let sources = [of(&a[..]), of(&b[..]), Source::Scalar(one)];
            let ids = [Some(WindowId(3)), Some(WindowId(0)), Some(WindowId(1))];
            let mut extents = Extents::default();
            extents.expire();
            let prospects = Prospects::new(&p.needs(), None, &sources, &ids, &mut extents);
            let every = (0..n).step_by(LANES).map(|from| (from, (from + LANES).min(n)));
            prop_assert_eq!(rows(&p, &sources, all(&prospects, n).into_iter()), rows(&p, &sources, every));
        }
    }

    #[test]
    fn what_cannot_hold_is_passed_over() {
        let above = |window, line| {
            vec![Op::Read { window, prop: Prop::Value, scale: 1.0 }, Op::BinConst(Bin::Gt, line)]
        };
        let mut code = above(0, 5.0);
        code.extend(above(1, 1.0));
        code.push(Op::Bin(Bin::And));
        let needs = program(code).needs();
        assert_eq!(needs.len(), 2);
        let mut value = vec![1.0; 1000];
        value[100] = 9.0;
        value[700] = f64::NAN;
        let columns = Source::Columns { value: &value, dev: &[], now: &[] };
        let ids = [Some(WindowId(0)), None];
        let mut extents = Extents::default();
        for (scalar, expected) in [(2.0, vec![(96, 128)]), (1.0, vec![]), (f64::NAN, vec![])] {
            let one = Source::Scalar(Numbers { value: scalar, ..Numbers::UNKNOWN });
            let prospects = Prospects::new(&needs, None, &[columns, one], &ids, &mut extents);
            assert_eq!(all(&prospects, 1000), expected);
        }
        // A window that wakes, and none at all.
        value.fill(0.0);
        value[999] = -1.0;
        let columns = Source::Columns { value: &value, dev: &[], now: &[] };
        extents.expire();
        assert_eq!(all(&Prospects::new(&[], Some(0), &[columns], &ids, &mut extents), 1000), [(992, 1000)]);
        let whole = all(&Prospects::new(&[], None, &[columns], &ids, &mut extents), 1000);
        assert_eq!(whole, [(0, 256), (256, 512), (512, 768), (768, 1000)]);
    }
}
